"""Datums to and from arrays."""

import io

import numpy as np
import pytest
from PIL import Image

from cos_runtime.caffe import datum
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import UserError

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of pixels [H, W] or [H, W, RGB]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("image", [IMAGE, IMAGE.astype(np.float32) / 3])
def test_an_array_survives_the_round_trip(image: np.ndarray) -> None:
    record = datum.parse(datum.from_array(image, 7).SerializeToString(), "it")
    back = datum.to_array(record, None, "it")
    assert (record.label, back.dtype) == (7, image.dtype)
    np.testing.assert_array_equal(back, image)


def test_a_view_is_parsed_without_a_copy_of_its_own() -> None:
    value = memoryview(datum.from_array(IMAGE, 1).SerializeToString())
    assert datum.parse(value, "it").channels == 2


def test_stored_floats_are_little_endian() -> None:
    record = datum.from_array(np.full((1, 1, 1), 1.5, np.float32), 0)
    assert datum.stored_bytes(record) == b"\x00\x00\xc0\x3f"


@pytest.mark.parametrize("value", [b"hello", b"\xff" * 9, datum.from_array(IMAGE, 1).SerializeToString()[:-3]])
def test_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(UserError, match="record 5 is no Caffe Datum"):
        datum.parse(value, "record 5")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Datum(), "its shape is 0 x 0 x 0"),
        (Datum(channels=1, height=2, width=3, data=b"12345"), "it holds 5 values, its shape 1 x 2 x 3 6"),
        (Datum(channels=1, height=2, width=3), "it holds 0 values"),
        (Datum(channels=1, height=1, width=2, float_data=[1.0]), "it holds 1 values"),
        (Datum(encoded=True), "encoded and holds no bytes"),
    ],
)
def test_a_datum_that_contradicts_itself_is_refused(record: Datum, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        datum.parse(record.SerializeToString(), "record 5")


def test_colours_come_as_planes_of_blue_green_and_red() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (10, 20, 30)
    decoded = datum.decode_image(file_of(pixels), None, "it")
    assert decoded.shape == (3, 2, 3)
    assert decoded[:, 0, 1].tolist() == [30, 20, 10]


@pytest.mark.parametrize(("channels", "shape"), [(None, (1, 2, 3)), (1, (1, 2, 3)), (3, (3, 2, 3))])
def test_a_gray_file_is_decoded_to_the_channels_that_are_asked_for(
    channels: int | None, shape: tuple[int, ...]
) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    decoded = datum.decode_image(file_of(pixels), channels, "it")
    assert decoded.shape == shape
    assert (decoded == pixels).all()


def test_a_colour_file_turns_gray_by_luma() -> None:
    decoded = datum.decode_image(file_of(np.full((1, 1, 3), (200, 100, 50), np.uint8)), 1, "it")
    assert decoded.shape == (1, 1, 1)
    assert abs(int(decoded[0, 0, 0]) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) < 1


def test_a_gray_jpeg_has_the_luma_that_the_file_holds() -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        luma = np.asarray(image.convert("YCbCr"))[..., 0]
    difference = np.abs(datum.decode_image(content, 1, "it")[0].astype(int) - luma)
    # What the file holds is out of the colours' range here and there, so only most of the pixels can agree.
    assert np.median(difference) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("rest", [0, 3, 60])
def test_a_damaged_file_is_refused(kind: str, rest: int) -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)[:rest]
    with pytest.raises(UserError, match="record 5 cannot be decoded as an image"):
        datum.decode_image(content, 3, "record 5")


def test_a_file_that_ends_too_early_is_refused() -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(UserError, match="cannot be decoded as an image: .*truncated"):
        datum.decode_image(content[: len(content) // 2], 3, "record 5")
