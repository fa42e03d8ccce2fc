"""Layers that stretch a small blob over the axes of a large one: factors and terms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.gradients import of_last_pass
from cos_runtime.caffe.schema.caffe_pb2 import BiasParameter, FillerParameter, ScaleParameter


class _Stretched(Layer):
    """A second operand with the shape of the bottom's axes from ``axis`` on: the second bottom, or a parameter."""

    n_bottoms = (1, 2)

    def operand_shape(self, bottoms: Sequence[Shape], param: BiasParameter | ScaleParameter) -> Shape:
        """The shape of the second operand, checked against the first bottom; notes how to stretch it."""
        bottom = bottoms[0]
        if len(bottoms) > 1:
            shape = bottoms[1]
            axis = self.canonical_axis(param.axis, len(bottom)) if shape else 0
        else:
            axis = self.canonical_axis(param.axis, len(bottom))
            if param.num_axes < -1 or axis + param.num_axes > len(bottom):
                self.refuse(f"num_axes is {param.num_axes} from axis {axis} on for a bottom of the shape {bottom}")
            shape = bottom[axis:] if param.num_axes == -1 else bottom[axis : axis + param.num_axes]
        if bottom[axis : axis + len(shape)] != shape:
            self.refuse(f"the shape {shape} of its operand is not that of {bottom} from axis {axis} on")
        self._axis = axis
        self.trailing = (1,) * (len(bottom) - axis - len(shape))
        return shape

    def stretched(self, operand: Tensor) -> Tensor:
        """The operand as a view that torch stretches over the first bottom."""
        return operand.view((*operand.shape, *self.trailing))


@register("Bias")
class Bias(_Stretched):
    """top = bottom + bias, stretched from ``axis`` over ``num_axes`` axes (-1: all from there).

    Blobs: bias, unless it is the second bottom.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = self.operand_shape(bottoms, self.param.bias_param)
        if len(bottoms) == 1:
            self.add_blob(shape, self.param.bias_param.filler)
        return [bottoms[0]]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return x + self.stretched(self.blobs[0] if bias is None else bias)


@register("Scale")
class Scale(_Stretched):
    """top = bottom * scale, plus bias with ``bias_term``, both stretched from ``axis`` over ``num_axes`` axes.

    Blobs: scale (1 without a filler), unless it is the second bottom; bias, of the same shape. Where the axes before
    ``axis`` have one place, as those of a batch of one item, the gradient of the scale is that of the last pass alone,
    for Caffe overwrites it.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.scale_param
        shape = self.operand_shape(bottoms, param)
        if len(bottoms) == 1:
            self.add_blob(shape, param.filler if param.HasField("filler") else FillerParameter(value=1))
        self.has_bias = param.bias_term
        if self.has_bias:
            self.add_blob(shape, param.bias_filler)
        self.is_by_channel = len(bottoms) == 1 and len(bottoms[0]) > 1 and shape == bottoms[0][1:2] and self._axis == 1
        return [bottoms[0]]

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        factor = self.stretched(self.factor(x) if scale is None else scale)
        if not self.has_bias:
            return x * factor
        return torch.addcmul(self.stretched(self.blobs[len(self.blobs) - 1]), x, factor)

    def factor(self, x: Tensor) -> Tensor:
        """The scale that is a parameter blob, for a bottom."""
        blob: Tensor = self.blobs[0]
        is_one_sum = blob.numel() == 1 < x.numel()
        is_overwritten = math.prod(x.shape[: self._axis]) == 1 and not is_one_sum
        return of_last_pass(self.blobs.owned[0], blob) if is_overwritten else blob
