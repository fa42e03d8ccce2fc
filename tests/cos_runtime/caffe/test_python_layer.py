"""The Python layer: a torch module of the user's, with its parameters in the net's weights."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe.layer_building import build, set_up


class Stretch(nn.Module):
    """Two tops: x times a learned factor, and its sum an item; noise in TRAIN only."""

    def __init__(self, start: float = 2.0, noise: float = 0.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start))
        self.noise = nn.Dropout(noise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = self.noise(x) * self.factor
        return top, top.sum(1)


class Plain:
    """No torch module."""


def python(layer: str = "Stretch", fields: str = "", module: str = __name__) -> str:
    return f'type: "Python" python_param {{ module: "{module}" layer: "{layer}" {fields} }}'


def test_tops_and_blobs_are_the_modules() -> None:
    layer, tops = set_up(python(fields="param_str: \"'start': 3.0\""), (2, 3), tops=2)
    assert tops == [(2, 3), (2,)]
    assert [blob.item() for blob in layer.blobs] == [3]
    top, total = layer(torch.ones(2, 3))
    assert (top.unique().tolist(), total.tolist()) == ([3], [9, 9])


def test_it_knows_its_phase() -> None:
    text = python(fields="param_str: \"{'noise': 0.5}\"")
    assert (build(text, (50, 9), tops=2, phase=TRAIN)(torch.ones(50, 9))[0] == 0).any()
    assert not (build(text, (50, 9), tops=2, phase=TEST)(torch.ones(50, 9))[0] == 0).any()


def test_its_blobs_learn_and_are_shared_by_name() -> None:
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "a" bottom: "x" top: "a" top: "sa" param {{ name: "f" }} {python()} }}
        layer {{ name: "b" bottom: "a" top: "b" top: "sb" param {{ name: "f" }} {python()}
            loss_weight: 1 loss_weight: 0 }}
    """
    net = Net(parse(text, NetParameter(), "net"), TRAIN)
    (blob,) = net.learnable
    net.loss(net({"x": torch.ones(2, 3)})).backward()
    # The loss is 6 f^2, at f = 2.
    assert blob.parameter.grad is not None
    assert blob.parameter.grad.item() == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (python("Gone"), "which cannot be imported"),
        (python(module="no.such"), "python_param names no.such.Stretch, which cannot be imported"),
        (python("Plain"), "Plain is no torch module: derive the class from torch.nn.Module"),
        (python(fields='param_str: "3 +"'), 'param_str "3 +" is no dictionary of arguments'),
        (python(fields="param_str: \"'size': 3\""), "does not take param_str"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(text, (2, 3), tops=2)


def test_refuses_tops_and_bottoms_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="returns 2 tensors for 1 tops"):
        build(python(), (2, 3))
    with pytest.raises(UserError, match=re.escape("fails on bottoms of the shapes [(2, 3), (1,)]: ")):
        build(python(), (2, 3), (1,), tops=2)
