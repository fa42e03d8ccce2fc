"""The nets and solvers of examples/: sizes as published, and one pass of each on random data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cos_runtime.caffe import prototxt
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, Phase
from cos_runtime.caffe.solver import Solver

EXAMPLES = Path(__file__).parents[3] / "examples"
CIFAR, IMAGENET = (3, 32, 32), (3, 227, 227)
NETS = {
    "cifar10/cifar10_quick_train_test.prototxt": CIFAR,
    "cifar10/cifar10_full_train_test.prototxt": CIFAR,
    "caffenet/caffenet_train_val.prototxt": IMAGENET,
}


def build(path: str, phase: Phase, items: int) -> Net:
    torch.manual_seed(1)
    return Net(prototxt.read_net(str(EXAMPLES / path)), phase, {"data": (items, *NETS[path]), "label": (items,)})


def count(net: Net) -> int:
    return sum(blob.parameter.numel() for blob in net.learnable)


@pytest.mark.parametrize(
    ("path", "weights", "biases", "shapes"),
    [
        (
            "cifar10/cifar10_quick_train_test.prototxt",
            145_578 - 202,
            202,
            {"conv1": (32, 32, 32), "pool1": (32, 16, 16), "pool2": (32, 8, 8), "pool3": (64, 4, 4), "ip2": (10,)},
        ),
        (
            "cifar10/cifar10_full_train_test.prototxt",
            89_440,
            138,
            {"norm1": (32, 16, 16), "conv2": (32, 16, 16), "norm2": (32, 8, 8), "pool3": (64, 4, 4), "ip1": (10,)},
        ),
        (
            "caffenet/caffenet_train_val.prototxt",
            60_965_224 - 10_568,
            10_568,
            {
                "conv1": (96, 55, 55),
                "norm1": (96, 27, 27),
                "conv2": (256, 27, 27),
                "norm2": (256, 13, 13),
                "conv3": (384, 13, 13),
                "pool5": (256, 6, 6),
                "fc7": (4096,),
                "fc8": (1000,),
            },
        ),
    ],
    ids=["cifar10_quick", "cifar10_full", "caffenet"],
)
@pytest.mark.parametrize("phase", [TRAIN, TEST], ids=["TRAIN", "TEST"])
def test_net_has_the_published_sizes(
    path: str, weights: int, biases: int, shapes: dict[str, tuple[int, ...]], phase: Phase
) -> None:
    net = build(path, phase, 2)
    assert {name: net.shapes[name][1:] for name in shapes} == shapes
    assert count(net) == weights + biases
    assert sum(blob.parameter.numel() for blob in net.learnable if blob.parameter.dim() == 1) == biases
    assert net.outputs == (["loss"] if phase == TRAIN else ["accuracy", "loss"])
    # Weights learn at the rate, biases at twice of it.
    assert {blob.lr_mult for blob in net.learnable if blob.parameter.dim() > 1} == {1}


@pytest.mark.parametrize("path", NETS)
def test_net_trains_on_random_data(path: str) -> None:
    # A last batch may be smaller than the shapes that the net was set up for.
    net = build(path, TRAIN, 3)
    blobs = net({"data": torch.randn(2, *NETS[path]), "label": torch.tensor([1.0, 3.0])})
    loss = net.loss(blobs)
    loss.backward()
    assert loss.isfinite()
    assert all(blob.parameter.grad is not None and blob.parameter.grad.any() for blob in net.learnable)


@pytest.mark.parametrize("solver", sorted(path.name for path in EXAMPLES.glob("*/*_solver.prototxt")))
def test_solver_is_one_that_we_can_run(solver: str) -> None:
    path = next(EXAMPLES.glob(f"*/{solver}"))
    param = prototxt.read_solver(str(path))
    assert (path.parent / param.net).is_file()
    tiny = Net(
        prototxt.parse(
            'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 1 } } }',
            prototxt.NetParameter(),
            "net",
        ),
        TRAIN,
    )
    assert Solver(param, tiny).rate == pytest.approx(param.base_lr)
