"""Caffe's ``Datum``, the record of an image database, to and from arrays."""

import numpy as np
from google.protobuf.message import DecodeError

from cos_runtime.caffe.pixels import decode_image
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import CorruptRecordError


def parse(value: bytes | memoryview, origin: str) -> Datum:
    """The ``Datum`` serialized in ``value``, its data as long as its shape says: what is beyond, Caffe never reads.

    Args:
        value: one record of an image database.
        origin: where the record comes from, for the error.

    Raises:
        CorruptRecordError: the bytes are no ``Datum``, or one that contradicts itself.
    """
    try:
        datum = Datum.FromString(value)  # type: ignore[arg-type] # protobuf takes any buffer
    except DecodeError:
        raise CorruptRecordError(f"{origin} is no Caffe Datum: it is damaged, or of another format") from None
    # Once: protobuf copies the data whenever they are asked for.
    values, needed = len(datum.data) or len(datum.float_data), datum.channels * datum.height * datum.width
    reason = _contradiction(datum, values, needed)
    if reason:
        raise CorruptRecordError(f"{origin} is no sound Caffe Datum: {reason}")
    if values > needed and not datum.encoded:
        datum.data = datum.data[:needed]
        del datum.float_data[needed:]
    return datum


def _contradiction(datum: Datum, values: int, needed: int) -> str:
    if datum.encoded:
        return "" if datum.data else "it is marked as encoded and holds no bytes"
    channels, height, width = datum.channels, datum.height, datum.width
    if channels < 1 or height < 1 or width < 1:
        return f"its shape is {channels} x {height} x {width}"
    return "" if values >= needed else f"it holds {values} values, its shape {channels} x {height} x {width} {needed}"


def stored_bytes(datum: Datum) -> bytes:
    """The data of a parsed ``Datum`` as bytes.

    The encoded file where it is encoded, else the pixels in planar order [C, H, W]: uint8, or little-endian float32
    where it has ``float_data`` only.
    """
    if datum.data or not datum.float_data:
        return datum.data
    return np.array(datum.float_data, dtype="<f4").tobytes()


def to_array(datum: Datum, channels: int | None, origin: str) -> np.ndarray:
    """The pixels of a parsed ``Datum``, decoded if they are encoded.

    Args:
        datum: a ``Datum`` from :func:`parse`.
        channels: as in :func:`~cos_runtime.caffe.pixels.decode_image`; for encoded images only.
        origin: where the record comes from, for errors.

    Returns:
        uint8 or float32 array [C, H, W].
    """
    if datum.encoded:
        return decode_image(datum.data, channels, origin)
    content = stored_bytes(datum)
    kind = np.dtype("u1") if datum.data else np.dtype("<f4")
    return np.frombuffer(content, dtype=kind).reshape(datum.channels, datum.height, datum.width)


def from_array(image: np.ndarray, label: int) -> Datum:
    """The uncompressed ``Datum`` of an image [C, H, W]: uint8 as bytes, any other type as ``float_data``."""
    channels, height, width = image.shape
    datum = Datum(channels=channels, height=height, width=width, label=label)
    if image.dtype == np.uint8:
        datum.data = image.tobytes()
    else:
        datum.float_data.extend(image.astype(np.float32).ravel())
    return datum
