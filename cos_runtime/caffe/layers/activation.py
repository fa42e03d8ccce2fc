"""Layers that apply one function to every value; Softmax and Dropout."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.gradients import with_factor
from cos_runtime.caffe.schema.caffe_pb2 import FillerParameter


class Elementwise(Layer):
    """A layer whose top has its bottom's shape."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]


class Pointwise(Elementwise):
    """A function of each value alone.

    Caffe takes its derivative from what the backward pass finds in the memory of bottom and top: in place the bottom's
    values are the top's, and both are those of layers that are in place over the top later on.
    """

    reads_top: ClassVar[bool] = False
    """Whether the derivative is one of the top's value too."""

    @abstractmethod
    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        """The derivative by what is left in the memory of bottom and top."""

    def in_place(self, x: Tensor, top: Tensor) -> Tensor:
        """The top with the gradient of a layer in place."""
        return with_factor(x, top, self.derivative(top, top))

    def is_spoiled_by(self, types: Sequence[str]) -> bool:
        """Whether layers of these types, in place over its top, change what the derivative is of."""
        return bool(types) and (self.reads_top or self.is_in_place)


@register("ReLU")
class ReLU(Pointwise):
    """top = x for x > 0, else negative_slope * x (at 0 the gradient is negative_slope).

    In place, what counts for the gradient is whether the top is positive.
    """

    overwrites = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.slope = self.param.relu_param.negative_slope
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        if self.slope < 0 and self.is_in_place:
            return self.in_place(x, functional.leaky_relu(x.detach(), self.slope))
        # A leaf of the graph that wants its gradient cannot be written over.
        in_place = self.slope >= 0 and self.may_overwrite and not (x.is_leaf and x.requires_grad)
        if self.slope:
            return functional.leaky_relu(x, self.slope, in_place)
        return functional.relu(x, in_place)

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return torch.where(bottom > 0, 1.0, self.slope)

    def is_spoiled_by(self, types: Sequence[str]) -> bool:
        # What Dropout makes 0 has no gradient anyway.
        return super().is_spoiled_by(types) and not (self.slope == 0 and set(types) <= {"Dropout", "ReLU"})


@register("ReLU6")
class ReLU6(Elementwise):
    """top = min(x, 6) for x > 0, else negative_slope * x (MobileNet v2)."""

    overwrites = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.slope = self.param.relu6_param.negative_slope
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        if self.slope:
            return functional.leaky_relu(x, self.slope).clamp(max=6)
        return functional.relu6(x, self.may_overwrite and not (x.is_leaf and x.requires_grad))


@register("PReLU")
class PReLU(Elementwise):
    """top = x for x > 0, else slope * x.

    Blobs: slope (channels,), or one number () with ``channel_shared``; 0.25 without a filler.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.prelu_param
        if len(bottoms[0]) < 2:
            self.refuse(f"it takes a bottom of 2 axes or more, not one of the shape {bottoms[0]}")
        filler = param.filler if param.HasField("filler") else FillerParameter(value=0.25)
        self.add_blob(() if param.channel_shared else (bottoms[0][1],), filler)
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        return functional.prelu(x, self.blobs[0].view(-1))


@register("ELU")
class ELU(Pointwise):
    """top = x for x > 0, else alpha * (exp(x) - 1).

    In place, what counts for the gradient is whether the top is positive.
    """

    reads_top = True

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.param.elu_param.alpha
        return self.in_place(x, functional.elu(x.detach(), alpha)) if self.is_in_place else functional.elu(x, alpha)

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return torch.where(bottom > 0, 1.0, top + self.param.elu_param.alpha)


@register("Sigmoid")
class Sigmoid(Pointwise):
    """top = 1 / (1 + exp(-x))."""

    reads_top = True

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return top * (1 - top)


@register("TanH")
class TanH(Pointwise):
    """top = tanh(x)."""

    reads_top = True

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return 1 - top * top


@register("Swish")
class Swish(Elementwise):
    """top = x * sigmoid(beta * x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x * self.param.swish_param.beta).sigmoid()


@register("BNLL")
class BNLL(Pointwise):
    """top = log(1 + exp(x)), the binomial normal log likelihood.

    In place, the gradient's sigmoid is that of the top.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.in_place(x, functional.softplus(x.detach())) if self.is_in_place else functional.softplus(x)

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return bottom.sigmoid()


@register("Threshold")
class Threshold(Elementwise):
    """top = 1 for x > threshold, else 0; it has no gradient."""

    without_gradient = (0,)

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.param.threshold_param.threshold).to(x.dtype)


@register("Clip")
class Clip(Pointwise):
    """top = x, at least min and at most max; the gradient passes where min <= x <= max.

    In place it passes everywhere.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.clip_param
        if not (param.HasField("min") and param.HasField("max") and param.min <= param.max):
            self.refuse(f"clip_param has min {param.min:g} and max {param.max:g}: give both, min the smaller one")
        self.least, self.most = param.min, param.max
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        # Not clamp's own gradient: whether the bounds themselves have one is another matter in each release of torch.
        top = x.detach().clamp(self.least, self.most)
        return self.in_place(x, top) if self.is_in_place else torch.where(self._is_within(x), x, top)

    def derivative(self, bottom: Tensor, top: Tensor) -> Tensor:
        return self._is_within(bottom).to(bottom.dtype)

    def _is_within(self, x: Tensor) -> Tensor:
        return (x >= self.least) & (x <= self.most)


@register("Softmax")
class Softmax(Elementwise):
    """top = exp(x) over its sum along ``axis``."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis = self.canonical_axis(self.param.softmax_param.axis, len(bottoms[0]))
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis)


@register("Dropout")
class Dropout(Elementwise):
    """In TRAIN, top = x / (1 - dropout_ratio), or 0 with the probability dropout_ratio; in TEST, top = x."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            self.refuse(f"dropout_ratio is {self.ratio:g}, it must be 0 or more and less than 1")
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.ratio) if self.is_training else x
