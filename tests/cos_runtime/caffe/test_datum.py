"""Datums to and from arrays."""

import numpy as np
import pytest

from cos_runtime.caffe import datum
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import UserError

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


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


@pytest.mark.parametrize(
    ("longer", "stored"),
    [
        # Eight bytes would be two floats, were they not known to be bytes.
        (Datum(channels=1, height=1, width=2, data=b"abcdefgh"), b"ab"),
        (Datum(channels=1, height=1, width=1, float_data=[1.5, 2.5]), b"\x00\x00\xc0\x3f"),
        (Datum(channels=1, height=1, width=1, data=b"a", float_data=[1.5, 2.5]), b"a"),
        (Datum(channels=1, height=1, width=1, data=b"abc", encoded=True), b"abc"),
    ],
)
def test_values_beyond_the_shape_are_left_out(longer: Datum, stored: bytes) -> None:
    assert datum.stored_bytes(datum.parse(longer.SerializeToString(), "it")) == stored


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
