"""Measure how long each layer of a net takes, forward and backward."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from cos_runtime.caffe.layers import Layer
from cos_runtime.caffe.net import Net
from cos_runtime.errors import UserError
from cos_runtime.tools import _data_shapes, _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._table import render

Result = TypeVar("Result")
Blob = tuple[str, int]
"""A blob's name and how often it was given before: an in-place layer gives it anew."""


@dataclass
class Timing:
    """Seconds that a layer took, one a pass."""

    name: str
    kind: str
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)


@dataclass
class _Record:
    """What the backward pass needs of a layer's forward pass."""

    layer: Layer
    timing: Timing
    bottoms: list[tuple[Blob, Tensor]]
    tops: list[tuple[Blob, Tensor]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="time", description=__doc__)
    _net_file.add_options(parser)
    _data_shapes.add_option(parser)
    parser.add_argument("--iterations", type=int, default=50, metavar="N", help="passes to measure (50)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    return run(parser, _work, argv)


def measure(net: Net, inputs: Mapping[str, Tensor], iterations: int) -> list[Timing]:
    """Time the layers one by one, each with the gradients that its tops get from those after it.

    A first pass, in which libraries choose their algorithms, is not counted.
    """
    timings = [Timing(name, layer.param.type) for name, layer in net.named_layers()]
    for iteration in range(iterations + 1):
        records = _forward(net, inputs, timings)
        _backward(net, records)
        if not iteration:
            for timing in timings:
                timing.forward.clear()
                timing.backward.clear()
    return timings


def _forward(net: Net, inputs: Mapping[str, Tensor], timings: Sequence[Timing]) -> list[_Record]:
    blobs = {name: ((name, 0), value) for name, value in inputs.items()}
    records = []
    for (_, layer), timing in zip(net.named_layers(), timings, strict=True):
        if layer.is_source:
            continue
        # Cut off from the layers before, so that the gradient of this one can be timed alone.
        bottoms = [(blob, value.detach().requires_grad_(value.requires_grad)) for blob, value in _bottoms(layer, blobs)]
        in_place = set(layer.param.bottom) & set(layer.param.top)
        values = [value.clone() if blob[0] in in_place else value for blob, value in bottoms]
        tops = _timed(timing.forward, partial(layer, *values))
        given = zip(layer.param.top, tops if isinstance(tops, tuple) else (tops,), strict=False)
        named = [((name, blobs[name][0][1] + 1 if name in blobs else 0), value) for name, value in given]
        blobs.update({blob[0]: (blob, value) for blob, value in named})
        records.append(_Record(layer, timing, bottoms, named))
    return records


def _bottoms(layer: Layer, blobs: Mapping[str, tuple[Blob, Tensor]]) -> list[tuple[Blob, Tensor]]:
    return [blobs[name] for name in layer.param.bottom]


def _backward(net: Net, records: Sequence[_Record]) -> None:
    weights = net.losses or dict.fromkeys(net.outputs, 1.0)
    gradients: dict[Blob, list[Tensor]] = defaultdict(list)
    for record in reversed(records):
        for blob, value in record.tops:
            if blob[0] in weights and value.requires_grad and not gradients[blob]:
                gradients[blob].append(torch.full_like(value, weights[blob[0]]))
        tops = [(value, sum(gradients[blob])) for blob, value in record.tops if value.requires_grad and gradients[blob]]
        blobs = [(blob, value) for blob, value in record.bottoms if value.requires_grad]
        wanted = [value for _, value in blobs] + [each for each in record.layer.blobs if each.requires_grad]
        if not (tops and wanted):
            record.timing.backward.append(0.0)
            continue
        outputs, seeds = zip(*tops, strict=True)
        found = _timed(
            record.timing.backward,
            partial(torch.autograd.grad, outputs, wanted, seeds, allow_unused=True),
        )
        for (blob, _), gradient in zip(blobs, found, strict=False):
            if gradient is not None:
                gradients[blob].append(gradient)


def _timed(seconds: list[float], work: Callable[[], Result]) -> Result:
    _finish()
    start = perf_counter()
    done = work()
    _finish()
    seconds.append(perf_counter() - start)
    return done


def _finish() -> None:
    """Wait for what a GPU still computes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _work(args: argparse.Namespace) -> str:
    if args.iterations < 1:
        raise UserError(f"--iterations is {args.iterations}: give 1 or more")
    try:
        device = torch.device(args.device)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}") from None
    net = _data_shapes.build(_net_file.read(args), args.data_shape).to(device)
    # Below 1, so that a blob of labels is of class 0.
    inputs = {name: torch.rand(net.shapes[name], device=device) for name in net.inputs}
    return report(measure(net, inputs, args.iterations), args.iterations)


def report(timings: Sequence[Timing], iterations: int) -> str:
    """The means as a table, and those of whole passes."""
    rows, sums = [], [0.0, 0.0]
    for timing in timings:
        means = [1000 * sum(seconds) / iterations for seconds in (timing.forward, timing.backward)]
        sums = [total + mean for total, mean in zip(sums, means, strict=True)]
        rows.append((timing.name, timing.kind, *(f"{mean:.3f}" for mean in means)))
    table = render(["layer", "type", "forward ms", "backward ms"], rows, right=["forward ms", "backward ms"])
    forward, backward = sums
    return (
        f"{table}\nAverage Forward pass: {forward:.3f} ms\nAverage Backward pass: {backward:.3f} ms\n"
        f"Average Forward-Backward: {forward + backward:.3f} ms\n"
        f"Total Time: {(forward + backward) * iterations:.1f} ms for {iterations} iterations"
    )


if __name__ == "__main__":
    raise SystemExit(main())
