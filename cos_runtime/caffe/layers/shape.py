"""Layers that copy, cut, join and rearrange blobs without changing a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.layers.labels import class_numbers
from cos_runtime.caffe.schema.caffe_pb2 import ConcatParameter, SliceParameter


@register("Split")
class Split(Layer):
    """Every top = bottom."""

    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        return [bottoms[0]] * len(self.param.top)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.param.top)


@register("Silence")
class Silence(Layer):
    """No top: its bottoms are no outputs of the net any more."""

    n_bottoms = (1, ANY)
    n_tops = (0, 0)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()


def _axis(layer: Layer, param: ConcatParameter | SliceParameter, old_name: str, ndim: int) -> int:
    """``axis``, or the older field for it, which does not count from the back."""
    if not param.HasField(old_name):
        return layer.canonical_axis(param.axis, ndim)
    if param.HasField("axis"):
        layer.refuse(f"both axis and {old_name} are given: keep axis")
    old = int(getattr(param, old_name))
    if old >= ndim:
        layer.refuse(f"{old_name} {old} is out of range for a bottom of {ndim} axes")
    return old


@register("Concat")
class Concat(Layer):
    """top = the bottoms one after the other along ``axis``."""

    n_bottoms = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        self.axis = _axis(self, self.param.concat_param, "concat_dim", len(first))
        rest = first[: self.axis], first[self.axis + 1 :]
        for name, shape in zip(self.param.bottom, bottoms, strict=True):
            if len(shape) != len(first) or (shape[: self.axis], shape[self.axis + 1 :]) != rest:
                self.refuse(f'bottom "{name}" of the shape {shape} does not fit to {first} on axis {self.axis}')
        return [(*rest[0], sum(shape[self.axis] for shape in bottoms), *rest[1])]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.axis)


@register("Slice")
class Slice(Layer):
    """The tops = the bottom cut along ``axis``: at each ``slice_point``, or into even parts."""

    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom, tops = self.param.slice_param, bottoms[0], len(self.param.top)
        self.axis = _axis(self, param, "slice_dim", len(bottom))
        size = bottom[self.axis]
        points = list(param.slice_point)
        if not points:
            if size % tops:
                self.refuse(f"axis {self.axis} of {bottom} cannot be cut into {tops} even parts: give slice_point")
            lengths = [size // tops] * tops
        else:
            if len(points) != tops - 1:
                self.refuse(f"it has {len(points)} slice_point for {tops} tops: give one less than tops")
            lengths = [end - start for start, end in zip([0, *points], [*points, size], strict=True)]
            if min(lengths) < 1:
                self.refuse(f"slice_point {points} must rise from 1 to less than {size}, the size of axis {self.axis}")
        self.cuts: list[int] | int = points or tops
        return [(*bottom[: self.axis], length, *bottom[self.axis + 1 :]) for length in lengths]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.tensor_split(self.cuts, self.axis)


@register("Flatten")
class Flatten(Layer):
    """top = bottom with the axes from ``axis`` to ``end_axis`` as one."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        param, bottom = self.param.flatten_param, bottoms[0]
        self.axis = self.canonical_axis(param.axis, len(bottom))
        self.end = self.canonical_axis(param.end_axis, len(bottom))
        # An end_axis just before axis makes an axis of 1 there.
        if self.end < self.axis - 1:
            self.refuse(f"end_axis {self.end} is before axis {self.axis}")
        return [(*bottom[: self.axis], math.prod(bottom[self.axis : self.end + 1]), *bottom[self.end + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        joined = math.prod(x.shape[self.axis : self.end + 1])
        return x.reshape(*x.shape[: self.axis], joined, *x.shape[self.end + 1 :])


@register("Reshape")
class Reshape(Layer):
    """top = bottom with ``num_axes`` axes from ``axis`` on (-1: all from there) replaced by ``shape``.

    In ``shape`` 0 keeps the bottom's size on that place and -1 stands for what is left, once.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        param, bottom = self.param.reshape_param, bottoms[0]
        self.dims, ndim = tuple(param.shape.dim), len(bottom)
        if self.dims.count(-1) > 1 or min(self.dims, default=0) < -1:
            self.refuse(f"shape {self.dims} must be of positive numbers, 0, and -1 once at most")
        self.start = param.axis if param.axis >= 0 else param.axis + ndim + 1
        self.end = ndim if param.num_axes == -1 else self.start + param.num_axes
        if not 0 <= self.start <= self.end <= ndim:
            self.refuse(f"axis {param.axis} with num_axes {param.num_axes} is out of range for a bottom of {bottom}")
        shape = self._shape(bottom)
        if math.prod(shape) != math.prod(bottom):
            self.refuse(f"a bottom of the shape {bottom} cannot become {shape}: it has {math.prod(bottom)} values")
        return [shape]

    def _shape(self, bottom: Shape) -> Shape:
        """The top's shape for a bottom's, with -1 worked out."""
        shape = [*bottom[: self.start], *self.dims, *bottom[self.end :]]
        for place, dim in enumerate(self.dims, start=self.start):
            if dim == 0 and place >= len(bottom):
                self.refuse(f"shape {self.dims} has a 0 for axis {place}, which a bottom of {bottom} has not")
            shape[place] = bottom[place] if dim == 0 else dim
        if -1 in shape:
            rest = -math.prod(shape)
            shape[shape.index(-1)] = math.prod(bottom) // rest if rest else 0
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        shape = list(self._shape(tuple(x.shape)))
        if shape and -1 not in self.dims:
            # A smaller batch has less items than a shape that names their number.
            shape[0] = -1
        return x.reshape(shape)


@register("Tile")
class Tile(Layer):
    """top = bottom repeated ``tiles`` times along ``axis``."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom = self.param.tile_param, bottoms[0]
        axis = self.canonical_axis(param.axis, len(bottom))
        if param.tiles < 1:
            self.refuse(f"tiles is {param.tiles}, it must be 1 or more")
        self.repeats = [param.tiles if place == axis else 1 for place in range(len(bottom))]
        return [(*bottom[:axis], bottom[axis] * param.tiles, *bottom[axis + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.repeats)


@register("Crop")
class Crop(Layer):
    """top = the first bottom cut to the size of the second on the axes from ``axis`` on, from ``offset`` on."""

    n_bottoms = (2, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, (bottom, model) = self.param.crop_param, bottoms
        self.axis = self.canonical_axis(param.axis, len(bottom))
        count = len(bottom) - self.axis
        if len(param.offset) not in (0, 1, count):
            self.refuse(f"it has {len(param.offset)} offset for {count} axes: give none, one, or one an axis")
        self.offsets = list(param.offset) if len(param.offset) == count else [*param.offset, 0][:1] * count
        if len(model) < len(bottom):
            self.refuse(f"a bottom of the shape {bottom} cannot be cut to the size of {model}")
        size = model[self.axis : len(bottom)]
        if any(o + s > b for o, s, b in zip(self.offsets, size, bottom[self.axis :], strict=True)):
            self.refuse(f"{size} from {tuple(self.offsets)} on is beyond a bottom of {bottom} from axis {self.axis} on")
        return [(*bottom[: self.axis], *size)]

    def forward(self, x: Tensor, model: Tensor) -> Tensor:
        for axis, offset in enumerate(self.offsets, start=self.axis):
            x = x.narrow(axis, offset, model.shape[axis])
        return x


@register("BatchReindex")
class BatchReindex(Layer):
    """top[i] = first bottom[index[i]], with the index as the second bottom."""

    n_bottoms = (2, 2)
    without_gradient = (1,)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        if len(bottoms[1]) != 1 or not bottoms[0]:
            self.refuse(f"it takes items and an index of one axis, not the shapes {bottoms[0]} and {bottoms[1]}")
        return [(*bottoms[1], *bottoms[0][1:])]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, class_numbers(self, index, x.shape[0]))


@register("Filter")
class Filter(Layer):
    """Each top = the items of the bottom of its place for which the last bottom, one value an item, is not 0."""

    n_bottoms = (2, ANY)
    n_tops = (1, ANY)
    without_gradient = (-1,)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        *items, selector = bottoms
        if len(self.param.top) != len(items):
            self.refuse(f"it has {len(self.param.top)} tops for {len(items)} bottoms and a selector: give one a bottom")
        if any(shape[:1] != (math.prod(selector),) or shape[:1] != selector[:1] for shape in items):
            self.refuse(
                f"a selector of the shape {selector} is not one value an item of {' and '.join(map(str, items))}"
            )
        return items

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *items, selector = bottoms
        selected = selector.flatten() != 0
        return tuple(x[selected] for x in items)


@register("Permute")
class Permute(Layer):
    """top = bottom with its axes in another order; the axes that ``order`` does not name come last (SSD)."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        order, ndim = list(self.param.permute_param.order), len(bottoms[0])
        if len(set(order)) < len(order) or max(order, default=0) >= ndim:
            self.refuse(f"order {order} must name axes of {bottoms[0]}, from 0 on and each once at most")
        self.order = order + [axis for axis in range(ndim) if axis not in order]
        return [tuple(bottoms[0][axis] for axis in self.order)]

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


@register("ShuffleChannel")
class ShuffleChannel(Layer):
    """top = bottom with the channels of its ``group`` groups taken in turn (ShuffleNet)."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.group = self.param.shuffle_channel_param.group
        if len(bottoms[0]) < 2 or self.group < 1 or bottoms[0][1] % self.group:
            self.refuse(f"the channels of {bottoms[0]} cannot be parted into {self.group} groups")
        return [bottoms[0]]

    def forward(self, x: Tensor) -> Tensor:
        parted = x.reshape(x.shape[0], self.group, x.shape[1] // self.group, *x.shape[2:])
        return parted.transpose(1, 2).reshape(x.shape)
