"""Shapes of the blobs that come from outside a net, as far as its prototxt and the files beside it tell."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import h5py

from cos_runtime import storage
from cos_runtime.caffe import datum
from cos_runtime.caffe.layers import LAYERS, Shape
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import DataParameter, LayerParameter, NetParameter
from cos_runtime.caffe.transform import read_mean
from cos_runtime.errors import UserError
from cos_runtime.sources import lmdb_file
from cos_runtime.tools._net_file import NetFile

KNOWN_SETS: Mapping[str, Shape] = {"siamese": (2, 28, 28), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}
"""Shape of an image by a word in the name of the source that Caffe's own scripts give to a data set.

MNIST: 28 x 28, gray (LeCun, Cortes, Burges); its pairs for a siamese net have two channels; CIFAR: 32 x 32 in colour
(Krizhevsky 2009).
"""


@dataclass(frozen=True)
class DataShapes:
    """What the user says of the shapes.

    Attributes:
        blobs: whole shapes by name of a blob.
        image: shape of one image of the layers that hold images; None: as the net and its files tell.
    """

    blobs: Mapping[str, Shape]
    image: Shape | None = None


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-shape``, for what :func:`build` cannot find itself."""
    parser.add_argument(
        "--data-shape",
        action="append",
        default=[],
        metavar="CxHxW",
        help="size of the images where neither net nor records tell it; BLOB=NxCxHxW for one blob; may be repeated",
    )


def build(file: NetFile, options: Sequence[str] = ()) -> Net:
    """The net of a file, inputs of their shapes in the place of its data layers.

    Args:
        options: what ``--data-shape`` was given.
    """
    param = with_inputs(file.param, find_shapes(file, parse_shapes(options)))
    return Net(param, file.state.phase, level=file.state.level, stages=file.state.stage)


def parse_shapes(options: Sequence[str]) -> DataShapes:
    """Read ``--data-shape`` options: ``1x28x28`` for an image, ``BLOB=20x100`` for a whole blob.

    Raises:
        UserError: one is neither.
    """
    blobs, image = {}, None
    for option in options:
        name, equals, text = option.rpartition("=")
        sizes = text.lower().replace(",", "x").split("x")
        if not all(size.isdecimal() and int(size) for size in sizes) or (not equals and len(sizes) != 3):
            raise UserError(
                f"--data-shape {option} is no shape: give an image's channels x height x width, as in 3x224x224, "
                "or a blob's with its name, as in data=10x3x224x224"
            )
        shape = tuple(map(int, sizes))
        if equals:
            blobs[name] = shape
        else:
            image = shape
    return DataShapes(blobs, image)


def is_source(layer: LayerParameter) -> bool:
    """Whether the layer's tops come from outside the net."""
    kind = LAYERS.get(layer.type)
    is_known = layer.type in _READERS or bool(layer.source_class) or (kind is not None and kind.is_source)
    return is_known and not layer.bottom and not _makes_its_tops(layer)


def _makes_its_tops(layer: LayerParameter) -> bool:
    """Whether it is a torch module that is there: others' Python layers read data sets of theirs."""
    if layer.type != "Python":
        return False
    try:
        return importlib.util.find_spec(layer.python_param.module) is not None
    except (ImportError, ValueError):
        return False


def with_inputs(net: NetParameter, shapes: Mapping[str, Shape]) -> NetParameter:
    """The net with its data layers as Input layers of these shapes: no file of records is opened for it."""
    changed = NetParameter()
    changed.CopyFrom(net)
    for layer in changed.layer:
        if is_source(layer):
            plain = LayerParameter(name=layer.name, type="Input", top=layer.top)
            for top in layer.top:
                plain.input_param.shape.add(dim=shapes[top])
            layer.CopyFrom(plain)
    return changed


def labels(net: NetParameter) -> set[str]:
    """The tops after the first of layers that read records."""
    return {top for layer in net.layer if is_source(layer) and layer.type != "Input" for top in layer.top[1:]}


def without_blobs(net: NetParameter, missing: set[str]) -> NetParameter:
    """The net without some of its inputs and all that is computed from them."""
    kept = NetParameter()
    kept.CopyFrom(net)
    kept.ClearField("layer")
    for layer in net.layer:
        if missing.intersection(layer.bottom):
            missing = missing.union(layer.top)
            continue
        added = kept.layer.add()
        added.CopyFrom(layer)
        if is_source(layer):
            del added.top[:]
            added.top.extend(top for top in layer.top if top not in missing)
    return kept


def find_shapes(net: NetFile, given: DataShapes) -> dict[str, Shape]:
    """The shape of each top of the net's data layers.

    Raises:
        UserError: one is not told; the sentence says how to give it.
    """
    tops = {top for layer in net.param.layer if is_source(layer) for top in layer.top}
    for name in given.blobs:
        if name not in tops:
            raise UserError(f'--data-shape: no data layer gives a blob "{name}"; there is {", ".join(sorted(tops))}')
    found: dict[str, Shape] = {}
    for layer in filter(is_source, net.param.layer):
        if not all(top in given.blobs for top in layer.top):
            found.update(zip(layer.top, _told_shapes(layer, net, given), strict=False))
        found.update({top: given.blobs[top] for top in layer.top if top in given.blobs})
        for top in layer.top:
            if top not in found:
                raise _refusal(layer, f'the shape of "{top}" is not told by the net: give --data-shape {top}=10x20x30')
    return found


def _told_shapes(layer: LayerParameter, net: NetFile, given: DataShapes) -> list[Shape]:
    if layer.type in _READERS:
        return _READERS[layer.type](layer, net, given)
    kind = LAYERS.get(layer.type)
    return kind(layer, net.state.phase).setup([]) if kind else []


def _image_shapes(layer: LayerParameter, net: NetFile, given: DataShapes) -> list[Shape]:
    """Tops of a layer of images: data (items, channels, height, width) and labels (items,)."""
    param = getattr(layer, _PARAMS[layer.type])
    if param.batch_size < 1:
        raise _refusal(layer, "it has no batch_size: give 1 or more")
    data = given.blobs.get(layer.top[0])
    if data is None:
        data = (param.batch_size, *(given.image or _cropped(_image_shape(layer, net), layer)))
    return [data, (param.batch_size,)]


def _cropped(image: Shape, layer: LayerParameter) -> Shape:
    crop = layer.transform_param.crop_size
    return (image[0], crop, crop) if crop else image


def _image_shape(layer: LayerParameter, net: NetFile) -> Shape:
    """Shape of one image before it is cropped; of a cropped one height and width do not matter."""
    stored = _stored_shape(layer, net)
    if stored:
        return stored
    known = next((shape for word, shape in KNOWN_SETS.items() if word in _source(layer).lower()), None)
    if layer.transform_param.crop_size:
        return (_channels(layer) or (known or (3,))[0], 0, 0)
    if layer.type == "ImageData" and layer.image_data_param.new_height and layer.image_data_param.new_width:
        return (_channels(layer) or 3, layer.image_data_param.new_height, layer.image_data_param.new_width)
    if known:
        sizes = "x".join(map(str, known))
        print(
            f'layer "{layer.name}": {_source(layer)} is not there, its name stands for images of {sizes} '
            "(--data-shape gives others)",
            file=sys.stderr,
        )
        return known
    raise _refusal(
        layer,
        f"the size of its images is in {_source(layer) or 'no file that it names'}, which cannot be read here: "
        "give --data-shape, as in --data-shape 3x224x224",
    )


def _channels(layer: LayerParameter) -> int:
    """The channels of an image where the layer tells, else 0."""
    if layer.type == "ImageData":
        return 3 if layer.image_data_param.is_color else 1
    if layer.type == "WindowData":
        return 3
    means = len(layer.transform_param.mean_value)
    return _forced_channels(layer) or (means if means > 1 else 0)


def _forced_channels(layer: LayerParameter) -> int:
    """The channels that encoded images are decoded to, 0 for those of the file."""
    if layer.transform_param.force_gray:
        return 1
    return 3 if layer.transform_param.force_color else 0


def _stored_shape(layer: LayerParameter, net: NetFile) -> Shape | None:
    """Shape of the first record, or that of the mean image, where one of them is there to be read."""
    path = _path(_source(layer), net)
    if layer.type == "Data" and layer.data_param.backend == DataParameter.LMDB and path:
        record, channels = lmdb_file.first_datum(path), _forced_channels(layer) or None
        shape: Shape = datum.to_array(record, channels, f"the first record of LMDB {path}").shape
        return shape
    path = _path(layer.transform_param.mean_file, net)
    return tuple(read_mean(path).shape) if path else None


def _hdf5_shapes(layer: LayerParameter, net: NetFile, _: DataShapes) -> list[Shape]:
    """Tops of HDF5Data: the data sets of these names in the first file of the list, ``batch_size`` rows of each."""
    param = layer.hdf5_data_param
    path = _path(param.source, net)
    names = storage.read_bytes(path, "list of HDF5 files").decode(errors="replace").split() if path else []
    first = _path(names[0], net) if names else None
    if not first:
        return []
    try:
        with h5py.File(first, "r") as file:
            return [(param.batch_size, *file[top].shape[1:]) for top in layer.top]
    except (OSError, KeyError, AttributeError) as error:
        raise _refusal(layer, f"{first} cannot be read: {error}") from None


def _unknown(_: LayerParameter, __: NetFile, ___: DataShapes) -> list[Shape]:
    return []


def _source(layer: LayerParameter) -> str:
    return str(getattr(layer, _PARAMS[layer.type]).source)


def _path(name: str, net: NetFile) -> str | None:
    """Where the file is, from the net's folder or the current one; None if it is not there."""
    if not name or storage.is_remote(name):
        return None
    return next((path for path in (storage.resolve(name, net.folder), name) if storage.exists(path)), None)


def _refusal(layer: LayerParameter, reason: str) -> UserError:
    return UserError(f'layer "{layer.name}" ({layer.type}): {reason}')


_PARAMS = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}

_READERS: Mapping[str, Callable[[LayerParameter, NetFile, DataShapes], list[Shape]]] = {
    "Data": _image_shapes,
    "ImageData": _image_shapes,
    "WindowData": _image_shapes,
    "HDF5Data": _hdf5_shapes,
    "Python": _unknown,
}
