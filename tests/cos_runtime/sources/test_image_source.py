"""Rows of images on their way to the blobs of a data layer."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cos_runtime.caffe.transform import write_mean
from cos_runtime.errors import UserError
from cos_runtime.sources.base import DataSource
from cos_runtime.sources.image import ImageSource, raw_images
from cos_runtime.sources.image_schema import IMAGE_SCHEMA
from tests.fixtures.source_conf import conf_of, memory_data

IMAGES = np.arange(10 * 6, dtype=np.uint8).reshape(10, 1, 2, 3)
GENERATOR = np.random.default_rng(0)


class Images(ImageSource):
    """A source without a DataFrame."""

    def dataframe(self, spark: object) -> None:  # type: ignore[override]
        raise NotImplementedError


def source(layer: str, *, is_train: bool = False, **options: object) -> Images:
    return Images(conf_of(layer, **options), 0, is_train)


def rows_of(images: list[np.ndarray] | np.ndarray) -> pa.RecordBatch:
    rows = [
        (f"r{index}", index, *image.shape, False, image.tobytes()) for index, image in enumerate(images)
    ]  # fmt: skip
    return batch(rows)


def batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), IMAGE_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=IMAGE_SCHEMA)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_raw_images_become_the_tops() -> None:
    tops = source(memory_data("x")).decode(rows_of(IMAGES), GENERATOR)
    assert list(tops) == ["data", "label"]
    assert tops["data"].dtype == tops["label"].dtype == torch.float32
    np.testing.assert_array_equal(tops["data"], IMAGES)
    np.testing.assert_array_equal(tops["label"], range(10))


def test_raw_images_are_seen_where_arrow_has_them() -> None:
    rows = rows_of(IMAGES)
    view = raw_images(rows)
    assert view is not None
    address = rows.column("data").buffers()[2].address
    assert view.__array_interface__["data"][0] == address


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize(("start", "length"), [(0, 10), (3, 4), (9, 1)])
def test_a_slice_keeps_to_its_rows(kind: pa.DataType, start: int, length: int) -> None:
    rows = rows_of(IMAGES)
    at = rows.schema.get_field_index("data")
    rows = rows.set_column(at, "data", rows.column("data").cast(kind)).slice(start, length)
    tops = source(memory_data("x")).decode(rows, GENERATOR)
    np.testing.assert_array_equal(tops["data"], IMAGES[start : start + length])
    np.testing.assert_array_equal(tops["label"], range(start, start + length))


def test_a_slice_of_a_slice_and_joined_batches_keep_to_their_rows() -> None:
    rows = rows_of(IMAGES).slice(2, 7).slice(1, 3)
    joined = pa.concat_batches([rows, rows_of(IMAGES).slice(8)])
    tops = source(memory_data("x")).decode(joined, GENERATOR)
    np.testing.assert_array_equal(tops["label"], [3, 4, 5, 8, 9])
    np.testing.assert_array_equal(tops["data"], IMAGES[[3, 4, 5, 8, 9]])


def test_no_rows_give_empty_tops() -> None:
    tops = source(memory_data("x")).decode(rows_of(IMAGES).slice(0, 0), GENERATOR)
    assert tops["data"].shape == (0, 1, 2, 3)
    assert tops["label"].shape == (0,)


def test_floats_are_known_by_their_length() -> None:
    images = IMAGES.astype("<f4") / 7
    tops = source(memory_data("x")).decode(rows_of(images).slice(4), GENERATOR)
    np.testing.assert_array_equal(tops["data"], images[4:])


def test_floats_and_bytes_may_be_mixed() -> None:
    images = [IMAGES[0], IMAGES[1].astype("<f4") / 7, IMAGES[2]]
    tops = source(memory_data("x", more="transform_param { scale: 2 }")).decode(rows_of(images), GENERATOR)
    np.testing.assert_array_equal(tops["data"], np.stack(images).astype(np.float32) * 2)


def test_encoded_images_are_decoded_and_may_have_no_size() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 3), dtype=np.uint8)
    rows = batch([("a", 1, None, None, None, True, png(colours[0])), ("b", 2, 3, 2, 3, True, png(colours[1]))])
    tops = source(memory_data("x", "channels: 3 height: 2 width: 3")).decode(rows, GENERATOR)
    np.testing.assert_array_equal(tops["data"], colours[..., ::-1].transpose(0, 3, 1, 2))


def test_encoded_images_take_the_channels_of_the_layer() -> None:
    rows = batch([("a", 1, 0, 0, 0, True, png(np.full((2, 3, 3), 9, np.uint8))), ("b", 2, 1, 2, 3, False, b"\x09" * 6)])
    tops = source(memory_data("x")).decode(rows, GENERATOR)
    np.testing.assert_array_equal(tops["data"], np.full((2, 1, 2, 3), 9))


def test_force_color_and_force_gray_decide_how_files_are_decoded() -> None:
    gray, colour = png(np.full((2, 3), 9, np.uint8)), png(np.full((2, 3, 3), 9, np.uint8))
    rows = batch([("a", 1, 0, 0, 0, True, gray), ("b", 2, 0, 0, 0, True, colour)])
    for force, channels in (("force_gray", 1), ("force_color", 3)):
        layer = memory_data(
            "x", f"channels: {channels} height: 2 width: 3", more=f"transform_param {{ {force}: true }}"
        )
        assert source(layer).decode(rows, GENERATOR)["data"].shape == (2, channels, 2, 3)
    with pytest.raises(UserError, match='layer "data" .* both force_color and force_gray'):
        source(memory_data("x", more="transform_param { force_gray: true force_color: true }")).check()


def test_another_size_is_refused_with_both_shapes_and_the_way_out() -> None:
    rows = batch([("cat 7", 1, 1, 3, 3, False, bytes(9))])
    with pytest.raises(UserError) as caught:
        source(memory_data("/pets")).decode(rows, GENERATOR)
    assert str(caught.value) == (
        'layer "data" takes images of 1 x 2 x 3 (channels x height x width), '
        "record cat 7 of /pets is of 1 x 3 x 3 (channels x height x width): give -resize to have it resized"
    )


def test_another_number_of_channels_is_refused() -> None:
    rows = batch([("cat 7", 1, 3, 2, 3, False, bytes(18))])
    with pytest.raises(UserError, match=r"record cat 7 of x is of 3 x 2 x 3 \(channels x height x width\)$"):
        source(memory_data("x")).decode(rows, GENERATOR)


def test_resizing_brings_all_images_to_the_declared_size() -> None:
    images = [np.full((1, 4, 6), 10, np.uint8), np.full((1, 2, 3), 20, np.uint8)]
    resized = source(memory_data("x"), resize=True)
    np.testing.assert_array_equal(
        resized.decode(rows_of(images), GENERATOR)["data"], np.stack([np.full((1, 2, 3), 10), np.full((1, 2, 3), 20)])
    )
    assert resized.decode(rows_of([images[0]] * 3), GENERATOR)["data"].shape == (3, 1, 2, 3)
    rows = batch([("a", 1, 0, 0, 0, True, png(np.full((9, 9), 30, np.uint8)))])
    np.testing.assert_array_equal(resized.decode(rows, GENERATOR)["data"], np.full((1, 1, 2, 3), 30))


def test_images_of_several_sizes_are_cropped_each_by_itself() -> None:
    images = [np.full((1, 4, 6), 10, np.uint8), np.full((1, 2, 3), 20, np.uint8)]
    layer = memory_data("x", "channels: 1 height: 2 width: 2", more="transform_param { crop_size: 2 }")
    data = source(layer).decode(rows_of(images), GENERATOR)["data"]
    np.testing.assert_array_equal(data, np.stack([np.full((1, 2, 2), 10), np.full((1, 2, 2), 20)]))
    with pytest.raises(UserError, match="takes images of 1 x 2 x 2 .* record r0 of x is of 1 x 1 x 6"):
        source(layer).decode(rows_of([images[0][:, :1]]), GENERATOR)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("r", 1, 1, 2, 3, False, bytes(5)), "record r of x holds 5 bytes, which is no image of 1 x 2 x 3"),
        (("r", 1, 0, 0, 0, False, bytes(5)), "record r of x holds 5 bytes, which is no image of 0 x 0 x 0"),
        (("r", 1, None, 2, 3, False, bytes(6)), "no image of 0 x 2 x 3"),
        (("r", 1, 1, 2, 3, False, None), "record r of x has no data"),
        (("r", 1, 1, 2, 3, False, b""), "record r of x has no data"),
        (("r", 1, 1, 2, 3, True, b"no image"), "record r of x cannot be decoded as an image"),
        (("r", None, 1, 2, 3, False, bytes(6)), "record r of x has no label"),
    ],
)
def test_a_damaged_row_is_named(row: tuple[object, ...], reason: str) -> None:
    rows = batch([("fine", 1, 1, 2, 3, False, bytes(6)), row])
    with pytest.raises(UserError, match=reason):
        source(memory_data("x")).decode(rows, GENERATOR)


def test_without_a_label_top_labels_may_be_missing() -> None:
    layer = memory_data("x").replace('top: "label"', "")
    tops = source(layer).decode(batch([("r", None, 1, 2, 3, False, bytes(6))]), GENERATOR)
    assert list(tops) == ["data"]
    assert list(source(layer).top_shapes()) == ["data"]


def test_the_mean_file_counts_from_the_solvers_folder_and_travels_with_the_source(tmp_path: Path) -> None:
    write_mean(str(tmp_path / "mean.binaryproto"), np.full((1, 2, 3), 5, np.float32))
    layer = memory_data("x", more='transform_param { mean_file: "mean.binaryproto" }')
    original = source(layer, solver_folder=str(tmp_path))
    original.check()
    (tmp_path / "mean.binaryproto").unlink()
    copy = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(copy.decode(rows_of(IMAGES), GENERATOR)["data"], IMAGES.astype(np.float32) - 5)


def test_transformations_in_data_param_are_of_old_files_alone() -> None:
    # Caffe moves them to transform_param in the V1 form, as the upgrade does, and in no other.
    layer = (
        'type: "Data" top: "data" transform_param { scale: 3 } data_param { source: "x" batch_size: 10 '
        'scale: 2 mean_file: "gone" crop_size: 1 mirror: true force_encoded_color: true }'
    )

    class Sized(Images):
        def first_shape(self, channels: int | None) -> tuple[int, int, int]:
            assert channels is None
            return (1, 2, 3)

    data = Sized(conf_of(layer), 0, True).decode(rows_of(IMAGES), GENERATOR)["data"]
    np.testing.assert_array_equal(data, IMAGES * np.float32(3))


def test_the_tops_have_their_shapes() -> None:
    cropped = memory_data("x", "channels: 3 height: 4 width: 4", 5, "transform_param { crop_size: 4 }")
    assert source(cropped).top_shapes() == {"data": (5, 3, 4, 4), "label": (5,)}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (memory_data("x", batch=0), 'layer "data" has no batch_size'),
        (memory_data(""), 'layer "data" has no source'),
        (memory_data("x", "channels: 1 height: 2"), "declares images of 1 x 2 x 0"),
        (memory_data("x", more='top: "third"'), "has 3 tops"),
        (memory_data("x", more="transform_param { crop_size: 2 }"), "images of 1 x 2 x 3 .* must be 2$"),
        (memory_data("x", more="transform_param { mean_value: 1 mean_value: 2 }"), "2 values of mean_value"),
        (memory_data("x", more='transform_param { mean_file: "gone" }'), "mean file /gone does not exist"),
        (memory_data("x").replace("MemoryData", "HDF5Data"), "is of type HDF5Data"),
        ('type: "Data" top: "data" data_param { batch_size: 1 source: "x" }', "whose size Images cannot tell"),
    ],
)
def test_a_layer_that_contradicts_itself_is_refused(layer: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        source(layer).check()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "has no source_class"),
        ("no.such.module.Class", "cannot be imported"),
        ("com.yahoo.ml.caffe.Other", "cannot be imported"),
        ("tests.cos_runtime.sources.own_source.NOT_A_SOURCE", "is not a subclass of DataSource"),
    ],
)
def test_a_class_that_is_no_source_is_refused(name: str, reason: str) -> None:
    layer = memory_data("x").replace("com.yahoo.ml.caffe.LMDB", name)
    with pytest.raises(UserError, match=reason):
        DataSource.getSource(conf_of(layer), True)
