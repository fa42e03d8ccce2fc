"""Layers that make an image larger or smaller (DeepLab, PSPNet, SegNet, YOLO)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.labels import class_numbers


@register("Interp")
class Interp(Layer):
    """top = bottom, resized bilinearly with the corner pixels in place, after a crop by negative pads.

    The size is ``height`` x ``width``, or for each axis s: (s - 1) / shrink_factor + 1, then
    s + (s - 1) * (zoom_factor - 1); or that of the second bottom.
    """

    n_bottoms = (1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_axes(bottoms[0], 4)
        param = self.param.interp_param
        if param.pad_beg > 0 or param.pad_end > 0:
            self.refuse(f"pad_beg {param.pad_beg} and pad_end {param.pad_end} only crop: 0 or less")
        if min(param.zoom_factor, param.shrink_factor) < 1:
            self.refuse("zoom_factor and shrink_factor must be 1 or more")
        self.size = self._size(bottoms)
        return [(*bottoms[0][:2], *self.size)]

    def _size(self, bottoms: Sequence[Shape]) -> Shape:
        param = self.param.interp_param
        if len(bottoms) > 1:
            self.need_axes(bottoms[1], 4)
            return bottoms[1][2:]
        has_zoom, has_shrink = param.HasField("zoom_factor"), param.HasField("shrink_factor")
        if param.HasField("height") and param.HasField("width") and has_zoom == has_shrink:
            return (param.height, param.width)
        if not (has_zoom or has_shrink):
            self.refuse("it has no size: give height and width, zoom_factor or shrink_factor")
        sizes = (size + param.pad_beg + param.pad_end for size in bottoms[0][2:])
        shrunk = ((size - 1) // param.shrink_factor + 1 for size in sizes)
        return tuple(size + (size - 1) * (param.zoom_factor - 1) for size in shrunk)

    def forward(self, x: Tensor, model: Tensor | None = None) -> Tensor:
        param = self.param.interp_param
        pads = (param.pad_beg, param.pad_end) * 2
        x = functional.pad(x, pads) if any(pads) else x
        return functional.interpolate(x, self.size, mode="bilinear", align_corners=True)


@register("Upsample")
class Upsample(Layer):
    """top = bottom, ``scale`` times as large: each value repeated or, with places as a second bottom, put there.

    The places are those that MAX pooling gives as its second top. Then the size may also be ``upsample_h`` x
    ``upsample_w``, or ``scale_h`` and ``scale_w`` times the bottom's, one less with ``pad_out_h`` and ``pad_out_w``.
    """

    n_bottoms = (1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_axes(bottoms[0], 4)
        param = self.param.upsample_param
        if len(bottoms) > 1 and bottoms[1] != bottoms[0]:
            self.refuse(f"its places have the shape {bottoms[1]}, its values {bottoms[0]}: they must be one")
        if bool(param.upsample_h) != bool(param.upsample_w) or param.HasField("scale_h") != param.HasField("scale_w"):
            self.refuse("a size or scale of one axis is given alone: give that of the other too")
        scales = (param.scale_h, param.scale_w) if param.HasField("scale_h") else (param.scale, param.scale)
        if min(scales) < 1:
            self.refuse(f"its scale is {scales}, it must be 1 or more")
        cut = (int(param.pad_out_h), int(param.pad_out_w))
        size = tuple(s * scale - less for s, scale, less in zip(bottoms[0][2:], scales, cut, strict=True))
        self.size = (param.upsample_h, param.upsample_w) if param.upsample_h else size
        if len(bottoms) == 1 and (any(cut) or param.upsample_h):
            self.refuse("upsample_h, upsample_w and pad_out are for a layer with places as its second bottom")
        return [(*bottoms[0][:2], *self.size)]

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        if places is None:
            return functional.interpolate(x, self.size, mode="nearest")
        # By hand: torch's max_unpool2d takes only the sizes of which a pooling would make the bottom's.
        high, wide = self.size
        index = class_numbers(self, places, high * wide).flatten(2)
        top = x.new_zeros(*x.shape[:2], high * wide).scatter(2, index, x.flatten(2))
        return top.view(*x.shape[:2], high, wide)
