"""Files of weights: Caffe's own are read, ours are what Caffe reads, and damaged ones are named."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, BlobProto, NetParameter, SolverParameter
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe import reference_cases

BINARY, HDF5 = SolverParameter.BINARYPROTO, SolverParameter.HDF5
SHAPES = {
    "conv1": [(20, 1, 5, 5), (20,)],
    "conv2": [(50, 20, 5, 5), (50,)],
    "ip1": [(500, 800), (500,)],
    "ip2": [(10, 500), (10,)],
}


@pytest.fixture(scope="module")
def lenet(pytestconfig: pytest.Config) -> Path:
    return reference_cases.folder(pytestconfig, "lenet")


@pytest.fixture(scope="module")
def binary(lenet: Path) -> bytes:
    return (lenet / "lenet_iter_1000.caffemodel").read_bytes()


@pytest.fixture(scope="module")
def hdf5(lenet: Path) -> bytes:
    return (lenet / "resumed_iter_1020.caffemodel.h5").read_bytes()


def shapes_of(layers: weights.Layers) -> dict[str, list[tuple[int, ...] | None]]:
    return {name: [None if blob is None else blob.shape for blob in blobs] for name, blobs in layers.items() if blobs}


def assert_equal(ours: weights.Layers, theirs: weights.Layers) -> None:
    assert list(ours) == list(theirs)
    for name, blobs in theirs.items():
        for own, given in zip(ours[name], blobs, strict=True):
            np.testing.assert_array_equal(own, given)
            assert own.dtype == np.float32


def blob(values: list[float], *dims: int) -> BlobProto:
    message = BlobProto(data=values)
    message.shape.dim.extend(dims)
    return message


def test_reads_caffes_binary_file(lenet: Path, binary: bytes) -> None:
    layers = weights.read(str(lenet / "lenet_iter_1000.caffemodel"))
    assert shapes_of(layers) == SHAPES
    for layer in NetParameter.FromString(binary).layer:
        for ours, theirs in zip(layers[layer.name], layer.blobs, strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), np.array(theirs.data, np.float32))


def test_reads_caffes_hdf5_file(lenet: Path) -> None:
    path = lenet / "resumed_iter_1020.caffemodel.h5"
    layers = weights.read(str(path))
    assert shapes_of(layers) == SHAPES
    with h5py.File(path) as file:
        for name, blobs in layers.items():
            for index, ours in enumerate(blobs):
                np.testing.assert_array_equal(ours, file[f"data/{name}/{index}"])


def test_caffes_binary_file_written_again_is_the_same_message(binary: bytes) -> None:
    param = NetParameter.FromString(binary)
    again = weights.serialize(param, weights.parse(binary, "binary"), BINARY)
    assert NetParameter.FromString(again) == param
    assert len(again) == len(binary)


def test_caffes_hdf5_file_written_again_has_the_same_layout(lenet: Path, hdf5: bytes) -> None:
    net = Net(prototxt.read_net(str(lenet / "lenet_net.prototxt")), TRAIN, {"data": (64, 1, 28, 28), "label": (64,)})
    again = weights.serialize(net.param, weights.parse(hdf5, "hdf5"), HDF5)
    assert layout(again) == layout(hdf5)
    assert_equal(weights.parse(again, "again"), weights.parse(hdf5, "hdf5"))


def layout(content: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(
            lambda name, item: found.update({name: (getattr(item, "dtype", None), getattr(item, "shape", None))})
        )
    return found


def test_the_binary_file_of_a_net_has_the_layers_of_caffes_own(lenet: Path, binary: bytes) -> None:
    net = Net(prototxt.read_net(str(lenet / "lenet_net.prototxt")), TRAIN, {"data": (64, 1, 28, 28), "label": (64,)})
    net.copy_weights(weights.parse(binary, "binary"), "binary")
    ours = NetParameter.FromString(weights.serialize(net.param, net.weights(), BINARY))
    theirs = NetParameter.FromString(binary)
    for layer in theirs.layer:
        # Defaults that Caffe's layers write out: a loss's weight, a convolution's stride.
        layer.ClearField("loss_weight")
        layer.convolution_param.ClearField("stride")
        if not layer.convolution_param.ByteSize():
            layer.ClearField("convolution_param")
    assert ours == theirs


@pytest.mark.parametrize("file_format", [BINARY, HDF5])
def test_a_round_trip_keeps_every_layer_and_bit(file_format: int) -> None:
    random = np.random.default_rng(1)
    values = {
        "inception_3a/1x1": [random.normal(size=(3, 2, 1, 1)).astype(np.float32), np.float32([1e-45, -0.0, np.inf])],
        "inception_3a/relu": [],
        "norm": [random.normal(size=(2,)).astype(np.float32), np.ones((), np.float32)],
        "norm/0x": [np.zeros((0, 3), np.float32)],
        "größe": [np.asfortranarray(random.normal(size=(4, 5)).astype(np.float32))],
    }
    param = NetParameter(name="a net")
    for name in values:
        param.layer.add(name=name, type="Any")
    assert_equal(
        dict(sorted(weights.parse(weights.serialize(param, values, file_format), "file").items())),
        dict(sorted(values.items())),
    )


def test_the_phase_of_the_net_is_written_with_each_layer() -> None:
    text = """
    input: "x" input_shape { dim: 1 dim: 2 }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 1 } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 1 }
            exclude { phase: TEST } }
    """
    net = Net(prototxt.parse(text, NetParameter(), "net"), TEST)
    written = NetParameter.FromString(weights.serialize(net.param, net.weights(), BINARY))
    assert [(layer.name, layer.phase, len(layer.blobs)) for layer in written.layer] == [
        ("input", TEST, 0),
        ("a", TEST, 2),
    ]
    assert not written.input
    assert not written.HasField("state")


def test_reads_layers_of_the_old_form_with_four_axes() -> None:
    net = NetParameter(name="old")
    layer = net.layers.add(name="ip")
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[7, 8])
    layers = weights.parse(net.SerializeToString(), "old")
    assert shapes_of(layers) == {"ip": [(1, 1, 2, 3), (1, 1, 1, 2)]}
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }
    """
    taker = Net(prototxt.parse(text, NetParameter(), "net"), TEST)
    assert taker.copy_weights(layers, "old") == []
    np.testing.assert_array_equal(taker.weights()["ip"][0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(taker.weights()["ip"][1], [7, 8])


def test_reads_doubles() -> None:
    net = NetParameter()
    net.layer.add(name="a").blobs.add(double_data=[1 / 3, 2]).shape.dim.append(2)
    np.testing.assert_array_equal(weights.parse(net.SerializeToString(), "doubles")["a"][0], np.float32([1 / 3, 2]))


@pytest.mark.parametrize("cuts", [range(1, 4), [2], []], ids=["unpacked", "packed in two", "packed"])
def test_reads_floats_however_they_are_packed(cuts: list[int]) -> None:
    values = np.float32([1.5, -2, 3, 4])
    if len(cuts) == 3:
        data = b"".join(b"\x2d" + struct.pack("<f", value) for value in values)
    else:
        data = b"".join(b"\x2a" + bytes([4 * len(part)]) + part.tobytes() for part in np.split(values, cuts))
    message = data + b"\x3a\x03\x0a\x01\x04"
    assert list(BlobProto.FromString(message).data) == list(values)
    layer = b"\x0a\x01a\x3a" + bytes([len(message)]) + message
    layers = weights.parse(b"\xa2\x06" + bytes([len(layer)]) + layer, "floats")
    np.testing.assert_array_equal(layers["a"][0], values)


def test_ignores_gradients() -> None:
    net = NetParameter()
    net.layer.add(name="a").blobs.append(blob([1, 2], 2))
    net.layer[0].blobs[0].diff.extend([3, 4])
    np.testing.assert_array_equal(weights.parse(net.SerializeToString(), "file")["a"], [[1, 2]])
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["data/a/0"] = np.float32([1, 2])
        file["diff/a/0"] = np.float32([3, 4])
    np.testing.assert_array_equal(weights.parse(buffer.getvalue(), "file")["a"], [[1, 2]])


SHARING = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { }
  inner_product_param { num_output: 2 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } param { }
  inner_product_param { num_output: 2 } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" }
  inner_product_param { num_output: 2 bias_term: false } }
"""


def test_takes_an_hdf5_file_that_has_shared_blobs_once() -> None:
    """Caffe writes them with the layer that owns them only."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["data/a/0"], file["data/a/1"] = np.eye(2, dtype=np.float32), np.float32([1, 2])
        file["data/b/1"] = np.float32([3, 4])
        file.create_group("data/c")
    layers = weights.parse(buffer.getvalue(), "shared")
    assert shapes_of(layers) == {"a": [(2, 2), (2,)], "b": [None, (2,)]}
    net = Net(prototxt.parse(SHARING, NetParameter(), "net"), TEST)
    assert net.copy_weights(layers, "shared") == []
    np.testing.assert_array_equal(net.weights()["c"][0], np.eye(2))
    np.testing.assert_array_equal(net.weights()["b"][1], [3, 4])


def test_shared_blobs_are_in_an_hdf5_file_once() -> None:
    net = Net(prototxt.parse(SHARING, NetParameter(), "net"), TEST)
    content = weights.serialize(net.param, net.weights(), HDF5)
    assert list(layout(content)) == ["data", "data/a", "data/a/0", "data/a/1", "data/b", "data/b/1", "data/c", "data/x"]
    again = Net(net.param, TEST)
    assert again.copy_weights(weights.parse(content, "shared"), "shared") == []
    binary = weights.parse(weights.serialize(net.param, net.weights(), BINARY), "binary")
    assert shapes_of(binary) == {"a": [(2, 2), (2,)], "b": [(2, 2), (2,)], "c": [(2, 2)]}, "as in Caffe's"


@pytest.mark.parametrize("file_format", [BINARY, HDF5])
def test_layers_of_one_name_keep_their_own_weights(file_format: int) -> None:
    text = SHARING.replace('name: "b"', 'name: "a"').replace('param { name: "w" } param { }', "")
    net = Net(prototxt.parse(text, NetParameter(), "net"), TEST)
    for value, blob in enumerate(blob for _, layer in net.named_layers() for blob in layer.blobs):
        torch.nn.init.constant_(blob, value)
    content = weights.serialize(net.param, net.weights(), file_format)
    again = Net(net.param, TEST)
    assert again.copy_weights(weights.parse(content, "file"), "file") == []
    for ours, theirs in zip(again.weights().values(), net.weights().values(), strict=True):
        assert_equal({"layer": ours}, {"layer": theirs})


def test_a_blob_that_is_not_shared_may_not_be_missing() -> None:
    net = Net(prototxt.parse(SHARING, NetParameter(), "net"), TEST)
    with pytest.raises(UserError, match=r'layer "a" .*: file has 1 parameter blobs where the net has 2'):
        net.copy_weights({"a": [None, np.zeros(2, np.float32)]}, "file")
    with pytest.raises(UserError, match=r'layer "b" .*: file has 1 parameter blobs where the net has 2'):
        net.copy_weights({"b": [np.zeros((2, 2), np.float32)]}, "file")
    with pytest.raises(UserError, match=r'layer "c" .*: file has 2 parameter blobs where the net has 1'):
        net.copy_weights({"c": [np.zeros((2, 2), np.float32)] * 2}, "file")
    assert net.copy_weights({"b": [None, np.zeros(2, np.float32)]}, "file") == ["a"]


def test_a_binary_file_cut_anywhere_inside_a_layer_is_named(binary: bytes) -> None:
    ends = layer_ends(binary)
    random = np.random.default_rng(2)
    cuts = {*random.integers(1, len(binary), 60).tolist(), *range(20), *range(len(binary) - 40, len(binary))}
    cuts |= {end + step for end in ends for step in (-1, 1, 2)}
    for cut in sorted(cuts - ends):
        if cut < len(binary):
            with pytest.raises(UserError, match=r"^cut\.caffemodel is no weights file"):
                weights.parse(binary[:cut], "cut.caffemodel")


def layer_ends(content: bytes) -> set[int]:
    """Where a shorter file is a whole one, of fewer layers."""
    net = NetParameter.FromString(content)
    ends = {0}
    for count in range(1, len(net.layer) + 1):
        shorter = NetParameter(name=net.name, layer=net.layer[:count])
        ends.add(shorter.ByteSize())
    return ends - {0}


def test_an_hdf5_file_cut_anywhere_is_named(hdf5: bytes) -> None:
    random = np.random.default_rng(3)
    cuts = {*random.integers(1, len(hdf5), 60).tolist(), *range(0, 120, 3), *range(len(hdf5) - 40, len(hdf5))}
    for cut in sorted(cuts):
        with pytest.raises(UserError, match=r"^cut\.h5 is no weights file"):
            weights.parse(hdf5[:cut], "cut.h5")


def test_bytes_changed_at_random_raise_nothing_but_a_user_error() -> None:
    net = NetParameter(name="small")
    for name in ("a", "b"):
        net.layer.add(name=name, type="Any").blobs.extend([blob([1, 2, 3, 4], 2, 2), blob([5], 1)])
    content = net.SerializeToString()
    random = np.random.default_rng(4)
    refused = 0
    for _ in range(2000):
        changed = bytearray(content)
        changed[random.integers(len(content))] = random.integers(256)
        try:
            weights.parse(bytes(changed), "changed")
        except UserError:
            refused += 1
    assert refused > 300


def test_the_file_of_another_kind_is_named(lenet: Path) -> None:
    other = {
        "empty": b"",
        "state": (lenet / "lenet_iter_1000.solverstate").read_bytes(),
        "state.h5": (lenet / "resumed_iter_1020.solverstate.h5").read_bytes(),
        "net.prototxt": (lenet / "lenet_net.prototxt").read_bytes(),
        "mean.binaryproto": blob([1, 2], 2).SerializeToString(),
        "image.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "zeros": bytes(1000),
    }
    for name, content in other.items():
        with pytest.raises(UserError, match=f"^{name} is no weights file"):
            weights.parse(content, name)


def test_hdf5_of_another_layout_is_named() -> None:
    for path, value in (("data", np.zeros(3)), ("data/a/weight", np.zeros(3)), ("data/a/0", "text"), ("other", 1)):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file[path] = value
        with pytest.raises(UserError, match=r"^odd is no weights file"):
            weights.parse(buffer.getvalue(), "odd")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights file .*nowhere\.caffemodel does not exist"):
        weights.read(str(tmp_path / "nowhere.caffemodel"))


def test_values_that_do_not_fill_the_shape_are_refused() -> None:
    net = NetParameter()
    net.layer.add(name="a").blobs.append(blob([1, 2, 3], 2, 2))
    with pytest.raises(UserError, match=r"short is no weights file, .* a blob of the shape \(2, 2\) has 3 values"):
        weights.parse(net.SerializeToString(), "short")
