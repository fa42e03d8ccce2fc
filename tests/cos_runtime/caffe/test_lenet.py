"""LeNet on MNIST from a snapshot of Caffe's on: the same losses, weights and accuracy as Caffe's own run."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cos_runtime.caffe import prototxt, solverstate, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN
from cos_runtime.caffe.solver import Solver
from tests.cos_runtime.caffe import reference_cases

MNIST = Path(__file__).parents[3] / "examples" / "mnist" / "data"


@pytest.fixture(scope="module")
def lenet(pytestconfig: pytest.Config) -> Path:
    return reference_cases.folder(pytestconfig, "lenet")


def mnist(subset: str, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Images as Caffe's transform_param scales them, and labels, from the IDX files."""
    with gzip.open(MNIST / f"{subset}-images-idx3-ubyte.gz") as file:
        file.read(16 + 784 * start)
        images = np.frombuffer(file.read(784 * count), np.uint8).reshape(-1, 1, 28, 28)
    with gzip.open(MNIST / f"{subset}-labels-idx1-ubyte.gz") as file:
        file.read(8 + start)
        labels = np.frombuffer(file.read(count), np.uint8)
    return torch.from_numpy(images * np.float32(0.00390625)), torch.from_numpy(labels.astype(np.float32))


def test_training_goes_on_as_caffes_own(lenet: Path) -> None:
    net = Net(prototxt.read_net(str(lenet / "lenet_net.prototxt")), TRAIN, {"data": (64, 1, 28, 28), "label": (64,)})
    assert net.copy_weights(weights.read(str(lenet / "lenet_iter_1000.caffemodel")), "snapshot") == []
    solver = Solver(prototxt.read_solver(str(lenet / "lenet_solver.prototxt")), net)
    solver.restore(solverstate.read(str(lenet / "lenet_iter_1000.solverstate")))
    expected = [line.split() for line in (lenet / "resumed_loss.txt").read_text().splitlines()]
    images, labels = mnist("train", 0, 64 * len(expected))
    for step, (iteration, theirs) in enumerate(expected):
        batch = slice(64 * step, 64 * (step + 1))
        loss = net.loss(net({"data": images[batch], "label": labels[batch]}))
        loss.backward()
        assert solver.iteration == int(iteration)
        # Caffe's log has six digits.
        assert loss.item() == pytest.approx(float(theirs), rel=1e-3)
        solver.step()
    theirs = weights.read(str(lenet / "resumed_iter_1020.caffemodel.h5"))
    for name, blobs in net.weights().items():
        for index, blob in enumerate(blobs):
            assert reference_cases.error(blob, theirs[name][index]) <= 1e-4, f"{name}/{index}"
    state = solverstate.read(str(lenet / "resumed_iter_1020.solverstate.h5"))
    assert (solver.iteration, solver.current_step) == (state.iteration, state.current_step)
    for index, (ours, history) in enumerate(zip(solver.state().history, state.history, strict=True)):
        assert reference_cases.error(ours, history) <= 1e-4, f"history {index}"


def test_features_are_caffes_own(lenet: Path) -> None:
    values = np.load(lenet / "lenet_iter_1000_test.npz", allow_pickle=False)
    net = Net(prototxt.read_net(str(lenet / "lenet_deploy.prototxt")), TEST)
    net.copy_weights(weights.read(str(lenet / "lenet_iter_1000.caffemodel")), "snapshot")
    images, _ = mnist("t10k", 0, 200)
    with torch.no_grad():
        blobs = net({"data": images}, ["ip1", "ip2"])
    for name, ours in blobs.items():
        assert reference_cases.error(ours.numpy(), values[name].reshape(ours.shape)) <= 1e-5, name


def test_accuracy_is_caffes_own(lenet: Path) -> None:
    values = np.load(lenet / "lenet_iter_1000_test.npz", allow_pickle=False)
    shapes = {"data": (100, 1, 28, 28), "label": (100,)}
    net = Net(prototxt.read_net(str(lenet / "lenet_net.prototxt")), TEST, shapes)
    net.copy_weights(weights.read(str(lenet / "lenet_iter_1000.caffemodel")), "snapshot")
    images, labels = mnist("t10k", 0, 10_000)
    correct = 0.0
    with torch.no_grad():
        for start in range(0, len(images), 1000):
            batch = slice(start, start + 1000)
            correct += 1000 * net({"data": images[batch], "label": labels[batch]}, ["accuracy"])["accuracy"].item()
    assert round(correct) == int(values["correct_of_10000"])
