"""Files of weights: Caffe's ``.caffemodel`` in binary (a ``NetParameter`` with blobs) and in HDF5."""

from __future__ import annotations

import io
from collections.abc import Sequence

import h5py
import numpy as np

from cos_runtime import storage
from cos_runtime.caffe.blobs import (
    damage_named,
    from_message,
    is_hdf5,
    read_dataset,
    reading_hdf5,
    to_parts,
    write_dataset,
)
from cos_runtime.caffe.net import Weights, distinct_names
from cos_runtime.caffe.schema import caffe_pb2, weights_pb2
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.caffe.wire import Parts, Path, delimited, without_values
from cos_runtime.errors import UserError

_LAYER_FIELD = 100
_BLOBS_FIELD = 7
# The way to a blob's data through layers of today, of version 1, and of version 0 within one of those.
_BLOB: Path = {5: None}
_DATA: Path = {_LAYER_FIELD: {_BLOBS_FIELD: _BLOB}, 2: {6: _BLOB, 1: {50: _BLOB}}}

Layers = dict[str, list[np.ndarray | None]]
"""Blobs by layer; None for one that an HDF5 file leaves to the layer with which it is shared."""


def read(path: str) -> Layers:
    """The blobs in the weights file at ``path`` (path or URL), by layer."""
    return parse(storage.read_bytes(path, "weights file"), path)


def parse(content: bytes, origin: str) -> Layers:
    """The blobs in the content of a weights file, by layer; the content tells which kind it is.

    Args:
        origin: the file's name, for error messages.

    Raises:
        UserError: it is no weights file, or a damaged one.
    """
    with damage_named(origin, "weights file"):
        layers = _from_hdf5(content) if is_hdf5(content) else _from_binary(content)
    if not layers:
        raise UserError(f"{origin} is no weights file: it has no layers")
    return layers


def serialize(param: NetParameter, weights: Weights, file_format: int) -> bytes:
    """The content of a weights file as Caffe writes and reads it.

    Args:
        param: the net, filtered for its phase, for the layers' parameters (binary only) and their order.
        weights: the layers' blobs.
        file_format: ``SolverParameter.BINARYPROTO`` or ``SolverParameter.HDF5``.
    """
    if file_format == SolverParameter.HDF5:
        return _to_hdf5(param, weights)
    return _to_binary(param, weights)


def _from_binary(content: bytes) -> Layers:
    values: list[memoryview] = []
    try:
        rest = without_values(memoryview(content), _DATA, weights_pb2.Blob.TAKEN_FIELD_NUMBER, values)
        return _blobs_of(weights_pb2.Net.FromString(rest), values)
    except ValueError:
        # Values that are not packed in one piece: caffe_pb2 knows them, at a Python object a number, and packs them.
        packed = caffe_pb2.NetParameter.FromString(content).SerializePartialToString()
        return _blobs_of(weights_pb2.Net.FromString(packed), [])


def _blobs_of(net: weights_pb2.Net, values: Sequence[memoryview]) -> Layers:
    old = [layer.layer if layer.HasField("layer") else layer for layer in net.layers]
    layers: list[weights_pb2.Layer | weights_pb2.V1Layer | weights_pb2.V0Layer] = [*old, *net.layer]
    return {
        name: [from_message(blob, values) for blob in layer.blobs]
        for name, layer in zip(distinct_names(layers), layers, strict=True)
    }


def _to_binary(param: NetParameter, weights: Weights) -> bytes:
    # What Net::ToProto writes: the name and the layers, each with its phase and its blobs.
    parts: Parts = [NetParameter(name=param.name).SerializeToString()]
    for each, name in zip(param.layer, distinct_names(param.layer), strict=True):
        layer = caffe_pb2.LayerParameter()
        layer.CopyFrom(each)
        layer.ClearField("blobs")
        if param.HasField("state") and not layer.HasField("phase"):
            layer.phase = param.state.phase
        # Messages after one another are one message, so that the blobs need not pass through protobuf.
        layer_parts: Parts = [layer.SerializeToString()]
        for blob in weights.get(name, ()):
            layer_parts += delimited(_BLOBS_FIELD, to_parts(blob))
        parts += delimited(_LAYER_FIELD, layer_parts)
    return b"".join(parts)


def _from_hdf5(content: bytes) -> Layers:
    layers: Layers = {}
    with reading_hdf5(content) as file:
        data = file["data"]
        if not isinstance(data, h5py.Group):
            raise TypeError("its data is no group of layers")
        _collect(data, "", layers)
    return layers


def _collect(group: h5py.Group, name: str, layers: Layers) -> None:
    """Take the layers at and below a group: a layer's name may have slashes, which HDF5 makes groups of."""
    blobs, below = {}, {}
    for key, item in group.items():
        if isinstance(item, h5py.Dataset):
            blobs[int(key)] = read_dataset(item)
        elif isinstance(item, h5py.Group):
            below[key] = item
        else:
            raise TypeError(f"{name}/{key} is neither a dataset nor a group")
    if name and (blobs or not below):
        layers[name] = [blobs.get(index) for index in range(max(blobs, default=-1) + 1)]
    for key, item in below.items():
        _collect(item, f"{name}/{key}" if name else key, layers)


def _to_hdf5(param: NetParameter, weights: Weights) -> bytes:
    # What Net::ToHDF5 writes: of a blob that layers share, the first one's alone.
    shared: set[str] = set()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        data = file.create_group("data")
        for layer, name in zip(param.layer, distinct_names(param.layer), strict=True):
            group = data.require_group(name)
            for index, blob in enumerate(weights.get(name, ())):
                shared_as = layer.param[index].name if index < len(layer.param) else ""
                if shared_as not in shared:
                    write_dataset(group, index, blob)
                if shared_as:
                    shared.add(shared_as)
    return buffer.getvalue()
