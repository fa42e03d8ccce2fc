"""The tool that tells a net's shapes and parameters, for nets whose records are not there too."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.caffe.transform import write_mean
from cos_runtime.tools import summary
from tests.fixtures.mnist import SmallLMDB

EXAMPLES = Path(__file__).parents[3] / "examples"
IP = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'


def data_layer(fields: str = "", kind: str = "Data", source: str = "gone", own: str = "") -> str:
    """A data layer, with more ``fields`` and more of its ``own`` parameters, and a layer that takes its data."""
    field = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}[kind]
    param = f'{field} {{ source: "{source}" batch_size: 4 {own} }}'
    return f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {param} {fields} }} {IP}'


def told(tmp_path: Path, net: str | Path, *options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    if isinstance(net, str):
        (tmp_path / "net.prototxt").write_text(net)
        net = tmp_path / "net.prototxt"
    assert summary.main([str(net), "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(("options", "items"), [((), 64), (("--phase", "test"), 100)])
def test_lenet(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], items: int) -> None:
    found = told(tmp_path, EXAMPLES / "mnist" / "lenet_solver.prototxt", *options, capsys=capsys)
    assert found["blobs"]["data"] == [items, 1, 28, 28]
    assert found["blobs"]["conv2"] == [items, 50, 8, 8]
    assert found["blobs"]["loss"] == []
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["ip1"]["parameters"] == 400_500
    assert layers["ip1"]["parameter_shapes"] == [[500, 800], [500]]
    assert layers["pool1"]["parameters"] == 0
    assert found["parameters"] == 431_080


def test_shared_parameters_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 3 }'
    net = f"""layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 5 }} }} }}
        layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" {twin} }}
        layer {{ name: "b" type: "InnerProduct" bottom: "data" top: "b" {twin} }}"""
    found = told(tmp_path, net, capsys=capsys)
    assert [layer["parameters"] for layer in found["layers"]] == [0, 18, 18]
    assert found["parameters"] == 18


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (data_layer("transform_param { crop_size: 9 }"), [4, 3, 9, 9]),
        (data_layer("transform_param { crop_size: 9 force_gray: true }"), [4, 1, 9, 9]),
        (data_layer("transform_param { crop_size: 9 mean_value: 1 mean_value: 2 }"), [4, 2, 9, 9]),
        (data_layer("transform_param { crop_size: 24 }", source="x/mnist_train_lmdb"), [4, 1, 24, 24]),
        (data_layer(source="mnist_siamese_train_leveldb"), [4, 2, 28, 28]),
        (data_layer("transform_param { crop_size: 9 }", kind="WindowData"), [4, 3, 9, 9]),
        (data_layer(kind="ImageData", own="new_height: 7 new_width: 5"), [4, 3, 7, 5]),
        (data_layer(kind="ImageData", own="new_height: 7 new_width: 5 is_color: false"), [4, 1, 7, 5]),
        (data_layer(kind="ImageData", own="new_height: 7 new_width: 5 crop_size: 4"), [4, 3, 7, 5]),
    ],
)
def test_records_that_are_not_there_are_not_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], net: str, shape: list[int]
) -> None:
    found = told(tmp_path, net, capsys=capsys)
    assert found["blobs"] == {"data": shape, "label": [4], "ip": [4, 2]}
    assert found["layers"][0]["type"] == re.search(r'type: "(\w+)"', net)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "shape"),
    [(["1x8x6"], [4, 1, 8, 6]), (["data=2x5"], [2, 5]), (["3,8,8", "label=4x1"], [4, 3, 8, 8])],
)
def test_the_user_may_tell_the_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], shape: list[int]
) -> None:
    given = [word for option in options for word in ("--data-shape", option)]
    assert told(tmp_path, data_layer(), *given, capsys=capsys)["blobs"]["data"] == shape


def test_files_that_are_there_tell_the_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_lmdb: SmallLMDB
) -> None:
    small_lmdb([np.zeros((2, 7, 6), np.uint8)], name="records")
    net = data_layer(source="records", own="backend: LMDB")
    assert told(tmp_path, net, capsys=capsys)["blobs"]["data"] == [4, 2, 7, 6]
    photo = io.BytesIO()
    Image.new("L", (6, 7)).save(photo, "JPEG")
    small_lmdb([Datum(encoded=True, data=photo.getvalue())], name="photos")
    net = data_layer("transform_param { mean_value: 1 mean_value: 2 }", source="photos", own="backend: LMDB")
    assert told(tmp_path, net, capsys=capsys)["blobs"]["data"] == [4, 1, 7, 6]
    # Old files have crops and means in data_param, which only their upgrade reads.
    net = data_layer(source="records", own="backend: LMDB crop_size: 4")
    assert told(tmp_path, net, capsys=capsys)["blobs"]["data"] == [4, 2, 7, 6]
    write_mean(str(tmp_path / "mean"), np.zeros((3, 8, 9), np.float32))
    net = data_layer('transform_param { mean_file: "mean" }')
    assert told(tmp_path, net, capsys=capsys)["blobs"]["data"] == [4, 3, 8, 9]


def test_hdf5_files_tell_the_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "first.h5", "w") as file:
        file["data"], file["cont"] = np.zeros((20, 3)), np.zeros(20)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'first.h5'}\n")
    param = 'hdf5_data_param { source: "list.txt" batch_size: 5 }'
    net = f'layer {{ name: "d" type: "HDF5Data" top: "data" top: "cont" {param} }}'
    assert told(tmp_path, net, capsys=capsys)["blobs"] == {"data": [5, 3], "cont": [5]}


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.main([str(EXAMPLES / "cifar10" / "cifar10_quick_train_test.prototxt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CIFAR10_quick (TRAIN)"
    assert re.fullmatch(r"conv2 +Convolution +pool1 +conv2 \(100 x 32 x 16 x 16\) +25,632", lines[6])
    assert lines[-1] == "13 layers, 11 blobs, 145,578 parameters"


@pytest.mark.parametrize(
    ("net", "options", "reason"),
    [
        (data_layer(), [], 'layer "d" .Data.: the size of its images is in gone, .* give --data-shape'),
        (data_layer(), ["--data-shape", "8x8"], "--data-shape 8x8 is no shape"),
        (data_layer(), ["--data-shape", "x=8"], '--data-shape: no data layer gives a blob "x"; there is data, label'),
        ('layer { name: "p" type: "Python" top: "a" }', [], 'the shape of "a" is not told .* --data-shape a='),
        ('layer { name: "d" type: "Data" top: "a" }', [], "it has no batch_size"),
        ('layer { name: "d" typ: "Data" }', [], r'net.prototxt:1:\d+: .*"typ"'),
        ("base_lr: 1", [], "is a solver that names no net"),
        ('net: "gone.prototxt"', [], "net .*gone.prototxt does not exist"),
        (f'{IP} layer {{ name: "x" include {{ phase: TEST }} }}', ["--stage", "a"], 'bottom blob "data"'),
        ('layer { include { phase: TEST } type: "Input" }', [], "has no layer for the phase TRAIN"),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], net: str, options: list[str], reason: str
) -> None:
    (tmp_path / "net.prototxt").write_text(net)
    assert summary.main([str(tmp_path / "net.prototxt"), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(reason, said)
