"""What a net saves on its way: memory that is written over, and passes that are made together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter, Phase

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 dim: 4 dim: 4 } } }\n'
CONVOLUTION = """layer { name: "c" type: "Convolution" bottom: "x" top: "c"
    convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }\n"""
NORMALIZED = """layer { name: "bn" type: "BatchNorm" bottom: "c" top: "%s" }
    layer { name: "s" type: "Scale" bottom: "%s" top: "%s" scale_param { bias_term: %s } }\n"""
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'
POOLING = 'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 } }\n'


def net(text: str, phase: Phase = TRAIN) -> Net:
    torch.manual_seed(1)
    built = Net(parse(text, NetParameter(), "net"), phase)
    with torch.no_grad():
        for name, layer in built.named_layers():
            for blob in layer.blobs:
                # The sums of BatchNorm stay as they are.
                if name != "bn":
                    blob.normal_(1, 0.5)
    return built


def in_place(built: Net) -> list[str]:
    return [name for name, layer in built.named_layers() if layer.may_overwrite]


def test_relu_writes_over_what_nothing_needs() -> None:
    built = net(INPUT + CONVOLUTION + RELU + POOLING)
    assert in_place(built) == ["r"]
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    blobs = built({"x": x})
    blobs["p"].sum().backward()
    layer = dict(built.named_layers())["c"]
    expected = torch.nn.functional.conv2d(x, layer.blobs[0], layer.blobs[1]).relu()
    torch.testing.assert_close(blobs["c"], expected)


@pytest.mark.parametrize(
    "before",
    [
        "",
        'layer { name: "q" type: "Sigmoid" bottom: "c" top: "c" }\n',
    ],
    ids=["an input", "after what needs its top"],
)
def test_relu_leaves_alone_what_is_needed(before: str) -> None:
    text = INPUT + CONVOLUTION + before + RELU if before else INPUT.replace('"x"', '"c"') + RELU
    built = net(text + POOLING)
    assert in_place(built) == []
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    given = x.detach().clone()
    built({built.inputs[0]: x})["p"].sum().backward()
    assert torch.equal(x.detach(), given)


def values_and_gradients(built: Net, x: Tensor, top: str) -> list[Tensor]:
    blobs = built({"x": x})
    blobs[top].square().sum().backward()
    gradients = [blob.parameter.grad for blob in built.learnable if blob.parameter.grad is not None]
    return [blobs[top].detach(), *gradients, *built.state_blobs]


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("phase", [TRAIN, TEST])
@pytest.mark.parametrize("size", [(3, 2, 4, 4), (1, 2, 3, 3)])
def test_batch_norm_and_scale_in_place_are_one_pass(bias: str, phase: Phase, size: tuple[int, ...]) -> None:
    together = net(INPUT + CONVOLUTION + NORMALIZED % ("c", "c", "c", bias), phase)
    apart = net(INPUT + CONVOLUTION + NORMALIZED % ("n", "n", "s", bias), phase)
    x = torch.randn(size)
    found, expected = values_and_gradients(together, x, "c"), values_and_gradients(apart, x, "s")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert "n" not in together.shapes
    assert [step.compute is step.layer for step in together._steps] == [True, True, False]
