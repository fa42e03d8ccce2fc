"""The tool that runs a net on arrays: Caffe's values, and what it refuses."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from cos_runtime.caffe import weights
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.tools import forward

MNIST = Path(__file__).parents[3] / "examples" / "mnist" / "data" / "t10k-images-idx3-ubyte.gz"
LENET = Path(__file__).parents[1] / "caffe" / "reference" / "lenet"

TINY = """
name: "tiny"
layer { name: "in" type: "Data" top: "file" top: "label" data_param { source: "nowhere" batch_size: 4 }
        transform_param { crop_size: 9 } }
layer { name: "ip" type: "InnerProduct" bottom: "file" top: "a/b" inner_product_param { num_output: 2 } }
layer { name: "relu" type: "ReLU" bottom: "a/b" top: "a/b" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "a/b" bottom: "label" top: "loss" }
layer { name: "again" type: "Power" bottom: "loss" top: "twice" power_param { scale: 2 } }
"""


def run(tmp_path: Path, net: str | Path, arrays: dict[str, np.ndarray] | None, *options: str) -> dict[str, np.ndarray]:
    """The blobs that the tool writes; an AssertionError if it refuses."""
    assert call(tmp_path, net, arrays, *options) == 0
    with np.load(tmp_path / "out.npz") as file:
        return dict(file)


def call(tmp_path: Path, net: str | Path, arrays: dict[str, np.ndarray] | None, *options: str) -> int:
    if isinstance(net, str):
        (tmp_path / "net.prototxt").write_text(net)
        net = tmp_path / "net.prototxt"
    if arrays is not None:
        forward.write_arrays(str(tmp_path / "in.npz"), arrays)
        options = ("--input", str(tmp_path / "in.npz"), *options)
    return forward.main([str(net), "--output", str(tmp_path / "out.npz"), *options])


def tiny_weights(tmp_path: Path, blobs: dict[str, list[np.ndarray]]) -> str:
    param = NetParameter()
    for name in blobs:
        param.layer.add(name=name, type="InnerProduct")
    path = tmp_path / "tiny.caffemodel"
    path.write_bytes(weights.serialize(param, blobs, SolverParameter.BINARYPROTO))
    return str(path)


@pytest.mark.parametrize("net", ["lenet_deploy.prototxt", "lenet_net.prototxt", "lenet_solver.prototxt"])
def test_lenet_gives_caffes_values(tmp_path: Path, net: str) -> None:
    with gzip.open(MNIST) as file:
        file.read(16)
        images = np.frombuffer(file.read(200 * 784), np.uint8).reshape(200, 1, 28, 28) * np.float32(1 / 256)
    blobs = run(tmp_path, LENET / net, {"data": images}, "--weights", str(LENET / "lenet_iter_1000.caffemodel"))
    assert list(blobs) == ["data", "conv1", "pool1", "conv2", "pool2", "ip1", "ip2"]
    with np.load(LENET / "lenet_iter_1000_test.npz") as theirs:
        for name in ("ip1", "ip2"):
            np.testing.assert_allclose(blobs[name], theirs[name], rtol=1e-4, atol=1e-4)


def test_every_blob_is_written_under_its_name(tmp_path: Path) -> None:
    weight, bias = np.array([[1, -1, 0], [0, 1, 0]], np.float32), np.array([0, 1], np.float32)
    path = tiny_weights(tmp_path, {"ip": [weight, bias]})
    arrays = {"file": np.array([[3, 1, 0], [1, 2, 5]]), "label": np.array([0, 1])}
    blobs = run(tmp_path, TINY, arrays, "--weights", path)
    assert list(blobs) == ["file", "label", "a/b", "loss", "twice"]
    np.testing.assert_array_equal(blobs["a/b"], np.array([[2, 2], [0, 3]], np.float32))
    expected = (np.log(2) + np.log(1 + np.exp(-3))) / 2
    assert blobs["loss"].shape == ()
    np.testing.assert_allclose([blobs["loss"], blobs["twice"]], [expected, 2 * expected], rtol=1e-6)
    assert {blob.dtype for blob in blobs.values()} == {np.dtype(np.float32)}


def test_without_labels_the_rest_is_computed(tmp_path: Path) -> None:
    assert list(run(tmp_path, TINY, {"file": np.ones((1, 3))}, "--no-weights")) == ["file", "a/b"]


def test_legacy_inputs_take_arrays_of_any_batch(tmp_path: Path) -> None:
    net = 'input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 3 layer { type: "AbsVal" bottom: "x" top: "y" }'
    x = np.linspace(-1, 1, 90, dtype=np.float32).reshape(5, 2, 3, 3)
    np.testing.assert_array_equal(run(tmp_path, net, {"x": x})["y"], np.abs(x))


def test_a_net_without_inputs_needs_none(tmp_path: Path) -> None:
    net = 'layer { type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 } data_filler { value: 3 } } }'
    np.testing.assert_array_equal(run(tmp_path, net, None)["d"], [3, 3])


@pytest.mark.parametrize(
    ("arrays", "options", "reason"),
    [
        ({"file": np.ones((1, 3))}, [], "--weights is missing"),
        ({"label": np.ones(1)}, ["--no-weights"], '--input has no array "file": the net takes file, label'),
        ({"file": np.ones((1, 3)), "data": np.ones(1)}, [], '--input has an array "data", which is no input: .*file'),
        ({"file": np.ones((1, 3)), "label": np.ones(2)}, ["--no-weights"], 'layer "loss"'),
        ({"file": np.array(["a"])}, ["--no-weights"], 'array "file" is of the type <U1: numbers are expected'),
        ({"file": np.ones((0, 3))}, ["--no-weights"], r'array "file" has the shape \(0, 3\)'),
        (None, ["--no-weights", "--input", __file__], "--input .*test_forward.py is no .npz file"),
        (None, ["--no-weights", "--input", "gone.npz"], "--input gone.npz does not exist"),
        ({"file": np.ones((1, 3))}, ["--weights", "gone.caffemodel"], "weights file gone.caffemodel does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, np.ndarray] | None,
    options: list[str],
    reason: str,
) -> None:
    assert call(tmp_path, TINY, arrays, *options) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(reason, said)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        ({"other": [np.ones((2, 3))]}, 'has no weights for layer "ip"'),
        ({"ip": [np.ones((2, 3))]}, "1 parameter blobs where the net has 2"),
        ({"ip": [np.ones((3, 2)), np.ones(2)]}, r"shape \(3, 2\) where the net has \(2, 3\)"),
    ],
)
def test_weights_of_another_net_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], blobs: dict[str, list[np.ndarray]], reason: str
) -> None:
    path = tiny_weights(tmp_path, blobs)
    assert call(tmp_path, TINY, {"file": np.ones((1, 3))}, "--weights", path) == 2
    assert re.search(reason, capsys.readouterr().err)
