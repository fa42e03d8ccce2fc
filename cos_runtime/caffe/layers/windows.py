"""Windows that slide over the spatial axes: the fields that describe them, in their several forms."""

from __future__ import annotations

from dataclasses import dataclass

from cos_runtime.caffe.layers.base import Layer, Shape
from cos_runtime.caffe.schema.caffe_pb2 import ConvolutionParameter, PoolingParameter


@dataclass(frozen=True)
class Windows:
    """Size, step, padding and dilation of the windows, one number a spatial axis."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @property
    def extent(self) -> Shape:
        """What a window covers, its gaps included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def count(self, layer: Layer, size: Shape) -> Shape:
        """How many windows ``size`` has with its padding; refuse one that is smaller than a window by a step or more.

        By less, there is one all the same, as Caffe's division rounds towards zero; see :meth:`beyond`.
        """
        padded = tuple(s + 2 * p for s, p in zip(size, self.pad, strict=True))
        fields = list(zip(padded, self.extent, self.stride, strict=True))
        if any(e - s >= step for s, e, step in fields if s < e):
            layer.refuse(f"a window of {self.extent} is larger than the padded bottom of {padded}")
        return tuple(max(s - e, 0) // step + 1 for s, e, step in fields)

    def beyond(self, size: Shape) -> Shape:
        """How many places of the only window lie beyond the padded ``size``, an axis; their values are 0."""
        return tuple(max(0, e - s - 2 * p) for s, e, p in zip(size, self.extent, self.pad, strict=True))


def read_windows(layer: Layer, param: ConvolutionParameter, axes: int) -> Windows:
    """The windows of a layer with ``convolution_param`` over so many spatial axes."""
    if not axes:
        return Windows((), (), (), ())
    return Windows(
        kernel=per_axis(layer, param, "kernel_size", axes, least=1),
        stride=per_axis(layer, param, "stride", axes, default=1, least=1),
        pad=per_axis(layer, param, "pad", axes, default=0),
        dilation=per_axis(layer, param, "dilation", axes, default=1, least=1),
    )


def per_axis(
    layer: Layer,
    param: ConvolutionParameter | PoolingParameter,
    field: str,
    axes: int,
    *,
    default: int | None = None,
    least: int = 0,
) -> Shape:
    """A field for each spatial axis: given once, once an axis, or as ``*_h`` and ``*_w``."""
    in_h_and_w = _in_h_and_w(layer, param, field, axes)
    given = in_h_and_w or _plain(param, field) or ([] if default is None else [default])
    if not given:
        layer.refuse(f"it has no {field}")
    if len(given) not in (1, axes):
        layer.refuse(f"{field} is given {len(given)} times for {axes} spatial axes: give it once, or once an axis")
    if min(given) < least:
        layer.refuse(f"{field} is {' x '.join(map(str, given))}, it must be {least} or more")
    return tuple(given if len(given) == axes else given * axes)


def _plain(param: ConvolutionParameter | PoolingParameter, field: str) -> list[int]:
    if isinstance(param, ConvolutionParameter):
        return list(getattr(param, field))
    return [getattr(param, field)] if param.HasField(field) else []


def _in_h_and_w(layer: Layer, param: ConvolutionParameter | PoolingParameter, field: str, axes: int) -> list[int]:
    names = [f"{field.removesuffix('_size')}_{axis}" for axis in "hw"]
    if names[0] not in param.DESCRIPTOR.fields_by_name or not any(param.HasField(name) for name in names):
        return []
    if axes != 2:
        layer.refuse(f"{names[0]} and {names[1]} are for 2 spatial axes, the bottom has {axes}")
    if _plain(param, field):
        layer.refuse(f"both {field} and {names[0]}, {names[1]} are given: keep one form")
    if isinstance(param, PoolingParameter) and not all(param.HasField(name) for name in names):
        layer.refuse(f"one of {names[0]} and {names[1]} is given alone: give both")
    return [getattr(param, name) for name in names]
