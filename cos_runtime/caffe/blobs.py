"""Parameter blobs in Caffe's two kinds of files, binary (protobuf messages) and HDF5 (datasets)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence

import h5py
import numpy as np
from google.protobuf.message import DecodeError

from cos_runtime.caffe.schema import weights_pb2
from cos_runtime.caffe.wire import Parts, delimited
from cos_runtime.errors import UserError

_DATA_FIELD = 5


def is_hdf5(content: bytes) -> bool:
    """Whether the content is an HDF5 file, by its signature."""
    return content.startswith(b"\x89HDF\r\n\x1a\n")


@contextlib.contextmanager
def damage_named(origin: str, what: str) -> Iterator[None]:
    """Turn whatever the libraries raise for a damaged or foreign file into a UserError that names it."""
    try:
        yield
    except (
        DecodeError,
        OSError,
        ArithmeticError,
        LookupError,
        ValueError,
        TypeError,
        RuntimeError,
        MemoryError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{origin} is no {what}, or a damaged one: {reason}") from None


def from_message(blob: weights_pb2.Blob, taken: Sequence[memoryview] = ()) -> np.ndarray:
    """The values of a blob, in the form of today or the one of four fixed axes.

    Args:
        blob: the message.
        taken: data of messages that were taken out of them; such an array cannot be written to.

    Raises:
        ValueError: it has not as many values as its shape.
    """
    shape = _shape(blob)
    if blob.double_data:
        values = np.frombuffer(blob.double_data, "<f8").astype(np.float32)
    elif blob.HasField("taken"):
        values = np.frombuffer(taken[blob.taken], "<f4")
    else:
        values = np.frombuffer(blob.data, "<f4").copy()
    if min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise ValueError(f"a blob of the shape {shape} has {values.size} values")
    return values.reshape(shape)


def _shape(blob: weights_pb2.Blob) -> tuple[int, ...]:
    if any(blob.HasField(axis) for axis in ("num", "channels", "height", "width")):
        return (blob.num, blob.channels, blob.height, blob.width)
    return tuple(blob.shape.dim)


def to_parts(array: np.ndarray) -> Parts:
    """The blob as a message, without a copy of its values."""
    message = weights_pb2.Blob()
    if array.ndim:
        message.shape.dim.extend(array.shape)
    values = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8)
    return [*delimited(_DATA_FIELD, [values.data]), message.SerializeToString()]


@contextlib.contextmanager
def reading_hdf5(content: bytes) -> Iterator[h5py.File]:
    """An HDF5 file, from its content."""
    with h5py.File(io.BytesIO(content), "r") as file:
        yield file


def read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    """The values of a dataset of numbers."""
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} holds no numbers")
    return np.asarray(dataset[()], np.float32)


def write_dataset(group: h5py.Group, index: int, array: np.ndarray) -> None:
    """Add a blob to a group under its number."""
    group.create_dataset(str(index), data=np.asarray(array, np.float32))


def to_hdf5(named: Mapping[str, np.ndarray]) -> bytes:
    """The content of an HDF5 file with these data sets."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in named.items():
            file.create_dataset(name, data=np.asarray(array, np.float32))
    return buffer.getvalue()
