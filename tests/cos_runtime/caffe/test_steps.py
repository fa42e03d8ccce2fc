"""What a net saves on its way: memory that is written over, and passes that are made together."""

from __future__ import annotations

from collections.abc import Callable

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


@pytest.mark.parametrize(
    ("before", "after", "derivative"),
    [
        ('type: "TanH" bottom: "x" top: "y"', 'type: "Power" power_param { shift: 1 }', lambda top: 1 - top**2),
        ('type: "Sigmoid" bottom: "x" top: "y"', 'type: "Bias"', lambda top: top * (1 - top)),
        ('type: "Exp" bottom: "x" top: "y"', 'type: "ReLU" relu_param { negative_slope: 2 }', lambda top: top),
        ('type: "ReLU" bottom: "y" top: "y"', 'type: "Bias"', lambda top: (top > 0).float()),
        ('type: "BNLL" bottom: "y" top: "y"', 'type: "Bias"', lambda top: top.sigmoid()),
        (
            'type: "ELU" elu_param { alpha: 0.5 } bottom: "y" top: "y"',
            'type: "Bias"',
            lambda top: torch.where(top > 0, 1.0, top + 0.5),
        ),
    ],
)
def test_the_derivative_is_of_what_later_layers_in_place_leave(
    before: str, after: str, derivative: Callable[[Tensor], Tensor]
) -> None:
    """Caffe's backward pass reads the memory of the top, over which they wrote."""
    source = INPUT if '"x"' in before else INPUT.replace('"x"', '"y"')
    text = source + f'layer {{ name: "f" {before} }} layer {{ name: "g" {after} bottom: "y" top: "y" }}'
    built = net(text + 'layer { name: "end" type: "Reduction" bottom: "y" top: "end" reduction_param { coeff: 3 } }')
    first = torch.randn(3, 2, 4, 4, requires_grad=True)
    second = torch.randn(3, 2, 4, 4, requires_grad=True)
    # Both passes before either's gradient: each has a memory of its own.
    passes = [(x, built({built.inputs[0]: x})) for x in (first, second)]
    for x, blobs in passes:
        blobs["end"].backward()
        left, x_after = blobs["y"].detach(), torch.ones_like(x)
        if "ReLU" in after:
            x_after = torch.where(left > 0, 1.0, 2.0)
        if "Power" in after:
            torch.testing.assert_close(x.grad, derivative(left))
        else:
            torch.testing.assert_close(x.grad, 3 * x_after * derivative(left))


@pytest.mark.parametrize("after", ["Dropout", "ReLU"])
def test_what_relu_leaves_to_others_of_its_kind_changes_nothing(after: str) -> None:
    text = CONVOLUTION + RELU + f'layer {{ name: "d" type: "{after}" bottom: "c" top: "c" }}\n'
    assert "r" in in_place(net(INPUT + text + POOLING)), "it still writes over what nothing needs"


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
