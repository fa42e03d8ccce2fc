"""Write a TEST net as an ONNX model or a torch.export program, and check that it computes the same."""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cos_runtime import storage
from cos_runtime.caffe.net import Net
from cos_runtime.errors import UserError
from cos_runtime.tools import _data_shapes, _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._needs import needed
from cos_runtime.tools._weights import add_weights_options, load_weights

TOLERANCE = 1e-4
"""Largest difference between the results, relative to the largest value."""

Results = list[np.ndarray]


class Exported(nn.Module):
    """A net as a module from a tensor an input to a tensor an output, in the order of the net's."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the net."""
        blobs = self.net(dict(zip(self.net.inputs, inputs, strict=True)), self.net.outputs)
        return tuple(blobs[name] for name in self.net.outputs)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    _net_file.add_options(parser, phase=False)
    parser.add_argument("output", metavar="OUT", help="file to write: .onnx, or .pt2 for torch.export")
    add_weights_options(parser)
    _data_shapes.add_option(parser)
    return run(parser, _work, argv)


def to_onnx(module: Exported, inputs: tuple[Tensor, ...]) -> bytes:
    """The module as the content of an ONNX file; names of inputs and outputs are those of the blobs."""
    needed("onnxscript")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.onnx")
        torch.onnx.export(
            module,
            inputs,
            path,
            input_names=module.net.inputs,
            output_names=module.net.outputs,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return storage.read_bytes(path)


def run_onnx(content: bytes, inputs: tuple[Tensor, ...]) -> Results:
    """What ONNX Runtime computes with a model."""
    session = needed("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return list(session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True))))


def to_program(module: Exported, inputs: tuple[Tensor, ...]) -> bytes:
    """The module as the content of a file that ``torch.export.load`` reads."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs), stream)
    return stream.getvalue()


def run_program(content: bytes, inputs: tuple[Tensor, ...]) -> Results:
    """What a program computes."""
    module = torch.export.load(io.BytesIO(content)).module()
    with torch.no_grad():
        return [each.numpy() for each in module(*inputs)]


_KINDS: dict[str, tuple[Callable[[Exported, tuple[Tensor, ...]], bytes], Callable[..., Results]]] = {
    ".onnx": (to_onnx, run_onnx),
    ".pt2": (to_program, run_program),
}


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference of a value, relative to the largest value of its array."""
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)) for a, b in pairs)


def _work(args: argparse.Namespace) -> str:
    kind = os.path.splitext(args.output)[1].lower()
    if kind not in _KINDS:
        raise UserError(f"{args.output}: the ending says what to write: give one of {', '.join(_KINDS)}")
    net = _net(args)
    load_weights(net, args)
    module = Exported(net.requires_grad_(False)).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(net.shapes[name], generator=generator) for name in net.inputs)
    write, compute = _KINDS[kind]
    content = write(module, inputs)
    with torch.no_grad():
        ours = [each.numpy() for each in module(*(each.clone() for each in inputs))]
    error = difference(ours, compute(content, inputs))
    if not error <= TOLERANCE:
        raise UserError(f"{args.output} is not written: its results differ from the net's by {error:.2g} of their size")
    storage.write_bytes(args.output, content)
    return f"{args.output}: {', '.join(net.inputs)} to {', '.join(net.outputs)}; results differ by {error:.1e}"


def _net(args: argparse.Namespace) -> Net:
    """The net without what needs labels."""
    file = _net_file.read(args)
    shapes = _data_shapes.find_shapes(file, _data_shapes.parse_shapes(args.data_shape))
    param = _data_shapes.without_blobs(file.param, _data_shapes.labels(file.param))
    return Net(_data_shapes.with_inputs(param, shapes), file.state.phase, level=args.level, stages=args.stage)


if __name__ == "__main__":
    raise SystemExit(main())
