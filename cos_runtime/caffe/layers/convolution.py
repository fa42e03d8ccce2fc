"""Layers that slide filters over the spatial axes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.layers.windows import Windows, read_windows

Operation = Callable[..., Tensor]


class _Filters(Layer):
    """A bank of filters, applied to each bottom for the top of its place.

    The channels are on ``axis``, the axes after it are spatial (any number), those before it count as the batch.
    """

    n_bottoms = (1, ANY)
    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.convolution_param
        if len(self.param.top) != len(bottoms):
            self.refuse(f"it has {len(self.param.top)} tops for {len(bottoms)} bottoms: give one a bottom")
        if len(set(bottoms)) > 1:
            self.refuse(f"its bottoms must have one shape, not {' and '.join(map(str, bottoms))}")
        self.axis = self.canonical_axis(param.axis, len(bottoms[0]))
        channels, size = bottoms[0][self.axis], bottoms[0][self.axis + 1 :]
        self.windows = read_windows(self, param, len(size))
        self.group = self.groups(channels)
        self._check_channels(channels, param.num_output)
        self.add_blob((*self.filters(channels, param.num_output), *self.windows.kernel), param.weight_filler)
        self.has_bias = param.bias_term
        if self.has_bias:
            self.add_blob((param.num_output,), param.bias_filler)
        return [(*bottoms[0][: self.axis], param.num_output, *self.top_size(size))] * len(bottoms)

    def groups(self, channels: int) -> int:
        """Into how many groups the channels are parted."""
        return self.param.convolution_param.group

    def _check_channels(self, channels: int, outputs: int) -> None:
        if outputs < 1:
            self.refuse(f"num_output is {outputs}, it must be 1 or more")
        if self.group < 1 or channels % self.group or outputs % self.group:
            self.refuse(f"{channels} channels and num_output {outputs} cannot be parted into {self.group} groups")

    @abstractmethod
    def filters(self, channels: int, outputs: int) -> tuple[int, int]:
        """The first two axes of the weight."""

    @abstractmethod
    def top_size(self, size: Shape) -> Shape:
        """The spatial axes of the top for those of the bottom."""

    @abstractmethod
    def apply_filters(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The top of a bottom with one axis, or none, before the channels."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        weight, bias = self.blobs[0], self.blobs[1] if self.has_bias else None
        if self.axis <= 1:
            return tuple(self.apply_filters(x, weight, bias) for x in bottoms)
        batches = (self.apply_filters(x.flatten(0, self.axis - 1), weight, bias) for x in bottoms)
        return tuple(y.view(*x.shape[: self.axis], *y.shape[1:]) for x, y in zip(bottoms, batches, strict=True))


@register("Convolution")
class Convolution(_Filters):
    """top[o, p] = bias[o] + sum over channels c and window places k: weight[o, c, k] * bottom[c, p * stride - pad + k].

    Blobs: weight (num_output, channels / group, *kernel); bias (num_output,).
    """

    operations: ClassVar[tuple[Operation, ...]] = (functional.conv1d, functional.conv2d, functional.conv3d)

    def filters(self, channels: int, outputs: int) -> tuple[int, int]:
        return outputs, channels // self.group

    def top_size(self, size: Shape) -> Shape:
        return self.windows.count(self, size)

    def apply_filters(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        windows, axes = self.windows, len(self.windows.kernel)
        if 1 <= axes <= 3:
            convolve = self.operations[axes - 1]
            beyond = windows.beyond(x.shape[-axes:])
            if any(beyond):
                x = functional.pad(x, [side for places in reversed(beyond) for side in (0, places)])
            return convolve(x, weight, bias, windows.stride, windows.pad, windows.dilation, self.group)
        top = _convolved(x if self.axis else x[None], weight, windows, self.group)
        return _with_bias(top if self.axis else top[0], bias, axes)


@register("ConvolutionDepthwise")
@register("DepthwiseConvolution")
class DepthwiseConvolution(Convolution):
    """A Convolution with a group for each channel, which is what ``group`` need not say (MobileNet, ShuffleNet)."""

    def groups(self, channels: int) -> int:
        group = self.param.convolution_param.group
        if group not in (1, channels):
            self.refuse(f"group is {group}: it is {channels}, the number of channels, or left out")
        return channels


@register("Deconvolution")
class Deconvolution(_Filters):
    """The gradient of a Convolution as a layer: each bottom value spreads a filter over the top, stride apart.

    Blobs: weight (channels, num_output / group, *kernel); bias (num_output,).
    """

    operations: ClassVar[tuple[Operation, ...]] = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )

    def filters(self, channels: int, outputs: int) -> tuple[int, int]:
        return channels, outputs // self.group

    def top_size(self, size: Shape) -> Shape:
        steps = zip(size, self.windows.stride, self.windows.extent, self.windows.pad, strict=True)
        top = tuple(stride * (s - 1) + extent - 2 * pad for s, stride, extent, pad in steps)
        if min(top, default=1) < 1:
            self.refuse(f"pad {self.windows.pad} leaves a top of {top} from a bottom of {size}")
        self.size = top
        return top

    def apply_filters(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        windows, axes = self.windows, len(self.windows.kernel)
        if 1 <= axes <= 3:
            spread = self.operations[axes - 1]
            return spread(x, weight, bias, windows.stride, windows.pad, 0, self.group, windows.dilation)
        batch = x if self.axis else x[None]
        blank = x.new_zeros(batch.shape[0], weight.shape[1] * self.group, *self.size)
        # By its definition: the gradient of the convolution whose filters these are.
        gradient = torch.func.vjp(lambda image: _convolved(image, weight, windows, self.group), blank)[1]
        top: Tensor = gradient(batch)[0]
        return _with_bias(top if self.axis else top[0], bias, axes)


@register("Im2col")
class Im2col(Layer):
    """The windows of a Convolution as columns: (channels * window places, *window counts) in the place of an image."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.convolution_param
        self.axis = self.canonical_axis(param.axis, len(bottoms[0]))
        channels, size = bottoms[0][self.axis], bottoms[0][self.axis + 1 :]
        if not size:
            self.refuse(f"the bottom {bottoms[0]} has no spatial axis after axis {self.axis}")
        self.windows = read_windows(self, param, len(size))
        places = channels * math.prod(self.windows.kernel)
        return [(*bottoms[0][: self.axis], places, *self.windows.count(self, size))]

    def forward(self, x: Tensor) -> Tensor:
        axes, first = len(self.windows.kernel), self.axis + 1
        windows = _unfolded(x, first, self.windows)
        # From (channels, *counts, *places) to (channels, *places, *counts).
        places = tuple(range(x.dim(), x.dim() + axes))
        return windows.movedim(places, tuple(range(first, first + axes))).flatten(self.axis, self.axis + axes)


def _unfolded(x: Tensor, first: int, windows: Windows) -> Tensor:
    """x, padded, with the window's places as further axes, in the order of the spatial axes."""
    sides = zip(windows.pad, windows.beyond(x.shape[x.dim() - len(windows.kernel) :]), strict=True)
    x = functional.pad(x, [side for pad, beyond in reversed([*sides]) for side in (pad, pad + beyond)])
    fields = zip(windows.extent, windows.stride, windows.dilation, strict=True)
    for axis, (extent, stride, dilation) in enumerate(fields, start=first):
        x = x.unfold(axis, extent, stride)[..., ::dilation]
    return x


def _convolved(x: Tensor, weight: Tensor, windows: Windows, group: int) -> Tensor:
    """The convolution of (items, channels, *size) over any number of spatial axes, of which torch has 1 to 3."""
    axes = len(windows.kernel)
    columns = _unfolded(x, 2, windows)
    counts = columns.shape[2 : 2 + axes]
    columns = columns.reshape(x.shape[0], group, x.shape[1] // group, math.prod(counts), math.prod(windows.kernel))
    filters = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
    return torch.einsum("ngcpk,gock->ngop", columns, filters).reshape(x.shape[0], weight.shape[0], *counts)


def _with_bias(top: Tensor, bias: Tensor | None, axes: int) -> Tensor:
    return top if bias is None else top + bias.view(-1, *(1,) * axes)
