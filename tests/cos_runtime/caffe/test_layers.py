"""Every layer against values of Caffe itself: tops, gradients, and parameters that a forward pass changes.

The error of an array is max|ours - Caffe's| / max|Caffe's|, relative to its largest value: where Caffe has zeros
only, ours must be zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cos_runtime.caffe.layers import LAYERS
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, Phase
from tests.cos_runtime.caffe import reference_cases

TOLERANCE = 1e-5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = sorted(reference_cases.folder(metafunc.config, "layers").glob("*.npz"))
        metafunc.parametrize("case", files, ids=[file.stem for file in files])


class Case:
    """One file: a net of Input layers and the layer under test, last, with Caffe's values."""

    def __init__(self, path: Path) -> None:
        self.values = np.load(path, allow_pickle=False)
        self.param = parse(str(self.values["prototxt"]), NetParameter(), path.name)
        self.phase = Phase.Value(str(self.values["phase"]))
        self.type = self.param.layer[-1].type

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose keys begin so, by the rest of the key."""
        start = f"{prefix}/"
        return {key.removeprefix(start): self.values[key] for key in self.values if key.startswith(start)}

    def errors(self) -> Iterator[tuple[float, str]]:
        """The error of each array."""
        net = Net(self.param, self.phase)
        blobs = {f"{name}/{i}": blob for name, layer in net.named_layers() for i, blob in enumerate(layer.blobs)}
        param = self.under("param")
        assert {key: tuple(blob.shape) for key, blob in blobs.items()} == {
            key: each.shape for key, each in param.items()
        }
        with torch.no_grad():
            for key, value in param.items():
                blobs[key].copy_(torch.from_numpy(value))
        inputs = {name: torch.from_numpy(value).requires_grad_() for name, value in self.under("in").items()}
        tops = net(inputs)
        yield from self._compare("out", {name: top.detach() for name, top in tops.items()})
        yield from self._compare("param_after", blobs)
        # What a layer keeps itself has no gradient; Caffe's is of zeros.
        leaves = {"grad_in": inputs, "grad_param": blobs}
        wanted = [(kind, key) for kind, of_kind in leaves.items() for key in self.under(kind) if key in of_kind]
        gradients = self._gradients(net, tops, [leaves[kind][key] for kind, key in wanted])
        for kind in leaves:
            ours = {
                key: gradient for (of_kind, key), gradient in zip(wanted, gradients, strict=True) if of_kind == kind
            }
            yield from self._compare(kind, ours)

    def _gradients(self, net: Net, tops: dict[str, Tensor], leaves: list[Tensor]) -> list[Tensor]:
        total = net.loss(tops)
        for name, gradient in self.under("grad_out").items():
            total = total + (tops[name] * torch.from_numpy(gradient)).sum()
        gradients = [torch.zeros_like(leaf) for leaf in leaves]
        places = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
        if places and total.requires_grad:
            found = torch.autograd.grad(total, [leaves[i] for i in places], allow_unused=True)
            for i, gradient in zip(places, found, strict=True):
                gradients[i] = gradients[i] if gradient is None else gradient
        return gradients

    def _compare(self, kind: str, ours: dict[str, Tensor]) -> Iterator[tuple[float, str]]:
        for key, theirs in self.under(kind).items():
            if key not in ours or tuple(ours[key].shape) != theirs.shape:
                shape = tuple(ours[key].shape) if key in ours else None
                yield np.inf, f"{kind}/{key} of the shape {shape}, Caffe's is {theirs.shape}"
            elif theirs.size:
                error = reference_cases.error(ours[key].detach().numpy(), theirs)
                yield np.inf if np.isnan(error) else error, f"{kind}/{key}"


def test_computes_what_caffe_computes(case: Path, differing: list[str]) -> None:
    reference = Case(case)
    if reference.type not in LAYERS:
        differing.append(f"{case.stem}: {reference.type} is no registered layer type")
        pytest.fail(differing[-1])
    try:
        errors = list(reference.errors())
    except Exception as error:
        differing.append(f"{case.stem}: {type(error).__name__}: {error}")
        raise
    error, array = max(errors)
    if error > TOLERANCE:
        differing.append(f"{case.stem}: error {error:.2g} of {array}")
        pytest.fail(differing[-1])
