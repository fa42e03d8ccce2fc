"""Layers of plain arithmetic: powers, logarithms, sums over bottoms and sums over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cos_runtime.caffe.layers.activation import Elementwise, Pointwise
from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.layers.gradients import with_gradient
from cos_runtime.caffe.schema.caffe_pb2 import EltwiseParameter, ExpParameter, LogParameter, ReductionParameter


@register("AbsVal")
class AbsVal(Elementwise):
    """top = \\|x\\|; the gradient at 0 is 0."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.refuse_in_place()
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@register("Power")
class Power(Elementwise):
    """top = (shift + scale * x) ^ power.

    In place, Caffe writes its derivative over the gradient from above, multiplies the two, and so squares it; and it
    takes the derivative at the top's values, which are in the bottom.
    """

    ignores_gradient_in_place = True

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.power_param
        if param.power * param.scale == 0:
            # Caffe fills in the constant, and so has no gradient and no NaN of x.
            return torch.full_like(x, param.shift).pow(param.power)
        if not self.is_in_place:
            return self._power(x)
        top = self._power(x.detach())
        return with_gradient(x, top, self._in_place_factor(top).square())

    def _power(self, x: Tensor) -> Tensor:
        param = self.param.power_param
        base = x if param.scale == 1 else x * param.scale
        base = base + param.shift if param.shift else base
        return base if param.power == 1 else base.pow(param.power)

    def _in_place_factor(self, top: Tensor) -> Tensor:
        """power * scale * top / (shift + scale * bottom), in the forms in which Caffe computes it."""
        param = self.param.power_param
        if param.power == 1:
            return torch.full_like(top, param.scale)
        if param.power == 2:
            return (top * param.scale + param.shift) * (2 * param.scale)
        if param.shift == 0:
            return top / top * param.power
        return top / (top * param.scale + param.shift) * (param.power * param.scale)


def _log_of_base(layer: Layer, param: ExpParameter | LogParameter) -> float:
    """ln(base); base -1 stands for e."""
    if param.base == -1:
        return 1.0
    if param.base <= 0:
        layer.refuse(f"base is {param.base:g}: it must be positive, or -1 for e")
    return math.log(param.base)


@register("Exp")
class Exp(Pointwise):
    """top = base ^ (shift + scale * x), with base e where it is -1."""

    reads_top = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.exp_param
        log_base = _log_of_base(self, param)
        self.scale, self.shift = log_base * param.scale, log_base * param.shift
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.shift).exp()

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return top * self.scale


@register("Log")
class Log(Elementwise):
    """top = log(shift + scale * x) to the base, e where it is -1.

    In place, the gradient is as Power's.
    """

    ignores_gradient_in_place = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        log_base = _log_of_base(self, self.param.log_param)
        if log_base == 0:
            self.refuse("base is 1, to which no other number has a logarithm")
        self.outer = 1 / log_base
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.log_param
        if not self.is_in_place:
            return (x * param.scale + param.shift).log() * self.outer
        top = (x.detach() * param.scale + param.shift).log() * self.outer
        return with_gradient(x, top, (param.scale * self.outer / (top * param.scale + param.shift)).square())


@register("Eltwise")
class Eltwise(Layer):
    """top = product, sum (each bottom times its ``coeff``) or maximum of the bottoms, value by value.

    Of equal values Caffe takes the second bottom's before the first one's, but these before those of any later one.
    """

    n_bottoms = (2, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.eltwise_param
        self.operation, self.coeff = param.operation, list(param.coeff)
        if self.operation == EltwiseParameter.SUM and self.is_in_place:
            self.refuse("a sum cannot be in place of its first bottom, which Caffe clears: give its top another name")
        if self.coeff and len(self.coeff) != len(bottoms):
            self.refuse(f"it has {len(self.coeff)} coeff for {len(bottoms)} bottoms: give one a bottom, or none")
        if self.coeff and self.operation == EltwiseParameter.PROD:
            self.refuse("coeff is for sums: a product takes none")
        for name, shape in zip(self.param.bottom, bottoms, strict=True):
            if shape != bottoms[0]:
                self.refuse(f'bottom "{name}" has the shape {shape} where the first has {bottoms[0]}')
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> Tensor:
        if self.operation == EltwiseParameter.SUM and self.coeff:
            bottoms = tuple(x * factor for x, factor in zip(bottoms, self.coeff, strict=True))
        top = bottoms[0]
        for index, x in enumerate(bottoms[1:], start=1):
            if self.operation == EltwiseParameter.SUM:
                top = top + x
            elif self.operation == EltwiseParameter.PROD:
                top = top * x
            else:
                top = torch.where(top > x if index == 1 else top >= x, top, x)
        return top


@register("Reduction")
class Reduction(Layer):
    """top = coeff * the sum, sum of absolutes, sum of squares or mean over the axes from ``axis`` on."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis = self.canonical_axis(self.param.reduction_param.axis, len(bottoms[0]))
        return [bottoms[0][: self.axis]]

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.reduction_param
        values = x.flatten(self.axis)
        if param.operation == ReductionParameter.ASUM:
            values = values.abs()
        elif param.operation == ReductionParameter.SUMSQ:
            values = values.square()
        top = values.mean(-1) if param.operation == ReductionParameter.MEAN else values.sum(-1)
        return top * param.coeff


@register("Axpy")
class Axpy(Layer):
    """top = a * x + y (SENet). Bottoms: a (items, channels, 1, 1), a factor for each channel of an item; x; y."""

    n_bottoms = (3, 3)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        factors, x, y = bottoms
        if x != y or factors[:2] != x[:2] or math.prod(factors) != math.prod(x[:2]):
            self.refuse(f"it takes (items, channels, 1, 1) and two of one shape, not {factors}, {x} and {y}")
        return [x]

    def forward(self, factors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(y, factors.reshape(*x.shape[:2], *(1,) * (x.dim() - 2)), x)
