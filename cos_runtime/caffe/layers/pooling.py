"""Layers that take one value out of each window of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.maximum import maxima
from cos_runtime.caffe.layers.windows import per_axis
from cos_runtime.caffe.schema.caffe_pb2 import PoolingParameter

MAX, AVE, STOCHASTIC = (
    PoolingParameter.MAX,
    PoolingParameter.AVE,
    PoolingParameter.STOCHASTIC,
)  # SPP has the same numbers

LEAST_FLOAT = -3.4028234663852886e38
"""What Caffe starts a maximum with: -FLT_MAX."""


@dataclass(frozen=True)
class PoolWindows:
    """Windows of (height, width) by Caffe's rule of how many there are."""

    kernel: Shape
    stride: Shape
    pad: Shape
    ceil: bool = True

    def counts(self, size: Sequence[int]) -> Shape:
        """How many windows there are on each axis of an image of this size."""
        return tuple(map(self._count, size, self.kernel, self.stride, self.pad))

    def _count(self, size: int, kernel: int, stride: int, pad: int) -> int:
        room = size + 2 * pad - kernel
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        # With padding the last window must start inside the image or its padding in front.
        return count - 1 if any(self.pad) and (count - 1) * stride >= size + pad else count

    def checked_counts(self, layer: Layer, size: Shape, method: int) -> Shape:
        """As :meth:`counts`; refuse padding that Caffe refuses, and windows larger than the image."""
        if any(self.pad) and method == STOCHASTIC:
            layer.refuse(f"STOCHASTIC pooling takes no padding, and here it is {self.pad}")
        if any(self.pad) and any(p >= k for p, k in zip(self.pad, self.kernel, strict=True)):
            layer.refuse(f"pad {self.pad} must be smaller than the window of {self.kernel}")
        counts = self.counts(size)
        if min(counts) < 1:
            layer.refuse(f"a window of {self.kernel} with pad {self.pad} is larger than the bottom of {size}")
        return counts

    @property
    def is_torchs(self) -> bool:
        """Whether torch takes this padding: it allows half a window, Caffe all but one pixel of it."""
        return all(2 * p <= k for p, k in zip(self.pad, self.kernel, strict=True))

    def padded(self, x: Tensor, value: float) -> Tensor:
        """The image with its padding, for what torch does not take as a parameter."""
        high, wide = self.pad
        return functional.pad(x, (wide, wide, high, high), value=value)

    def counted(self, top: Tensor, x: Tensor, empty: float) -> Tensor:
        """The windows that Caffe counts, ``empty`` where one lies wholly outside of the image.

        After explicit padding torch may have one window more; one that starts behind the image, as a stride larger
        than the kernel can make it, torch leaves out.
        """
        high, wide = self.counts(x.shape[-2:])
        missing = (0, max(0, wide - top.shape[-1]), 0, max(0, high - top.shape[-2]))
        return functional.pad(top[..., :high, :wide], missing, value=empty) if any(missing) else top[..., :high, :wide]

    def is_touching(self, size: Sequence[int]) -> tuple[bool, bool]:
        """Whether the last window of each axis starts at the very end of the image: it covers nothing at all."""
        ends = zip(self.counts(size), self.stride, self.pad, size, strict=True)
        high, wide = ((count - 1) * stride - pad == s + pad for count, stride, pad, s in ends)
        return high, wide


def pool(x: Tensor, windows: PoolWindows, method: int, is_training: bool) -> Tensor:
    """One value out of each window."""
    if method == MAX:
        return max_pool(x, windows)
    if method == AVE:
        return average_pool(x, windows)
    return stochastic_pool(x, windows, is_training)


def max_pool(x: Tensor, windows: PoolWindows) -> Tensor:
    """The greatest value of each window; the first of equal ones takes the gradient."""
    return max_pool_with_places(x, windows)[0]


def max_pool_with_places(x: Tensor, windows: PoolWindows) -> tuple[Tensor, Tensor]:
    """As :func:`max_pool`, and where in the image (row * width + column) the values come from."""
    kernel, stride, ceil = windows.kernel, windows.stride, windows.ceil
    if windows.is_torchs:
        top, places = maxima(x, kernel, stride, windows.pad, ceil)
        return windows.counted(top, x, LEAST_FLOAT), windows.counted(places, x, -1)
    padded = windows.padded(x, -math.inf)
    top, places = maxima(padded, kernel, stride, (0, 0), ceil)
    rows, columns = places // padded.shape[-1] - windows.pad[0], places % padded.shape[-1] - windows.pad[1]
    return windows.counted(top, x, LEAST_FLOAT), windows.counted(rows * x.shape[-1] + columns, x, -1)


def average_pool(x: Tensor, windows: PoolWindows) -> Tensor:
    """The sum of each window over its size, which counts the padding but nothing beyond it.

    A window that covers nothing is 0 / 0, as in Caffe.
    """
    if not windows.is_torchs:
        padded = windows.padded(x, 0)
        return windows.counted(functional.avg_pool2d(padded, windows.kernel, windows.stride, 0, windows.ceil), x, 0)
    top = functional.avg_pool2d(x, windows.kernel, windows.stride, windows.pad, windows.ceil)
    top = windows.counted(top, x, 0)
    is_touching = windows.is_touching(x.shape[-2:])
    if any(is_touching):
        covers_nothing = torch.zeros(top.shape[-2:], dtype=torch.bool, device=top.device)
        covers_nothing[-1] |= is_touching[0]
        covers_nothing[:, -1] |= is_touching[1]
        top = top.masked_fill(covers_nothing, math.nan)
    return top


def stochastic_pool(x: Tensor, windows: PoolWindows, is_training: bool) -> Tensor:
    """A value of each window drawn with the values as weights; in TEST their mean by these weights."""
    (high, wide), (step_down, step_right) = windows.kernel, windows.stride
    rows, columns = windows.counts(x.shape[-2:])
    missing = ((columns - 1) * step_right + wide - x.shape[-1], (rows - 1) * step_down + high - x.shape[-2])
    x = functional.pad(x, (0, max(0, missing[0]), 0, max(0, missing[1])))
    values = x.unfold(-2, high, step_down).unfold(-2, wide, step_right).flatten(-2)
    if not is_training:
        total = values.sum(-1)
        return torch.where(total > 0, values.square().sum(-1) / total, 0.0)
    running = values.detach().cumsum(-1)
    drawn = torch.rand_like(running[..., :1]) * running[..., -1:]
    return values.gather(-1, (running < drawn).sum(-1, keepdim=True).clamp(max=high * wide - 1)).squeeze(-1)


@register("Pooling")
class Pooling(Layer):
    """top[p] = maximum, average or a draw of bottom over the window from p * stride - pad on.

    The second top of MAX tells where in its image each maximum is, as row * width + column.
    """

    n_tops = (1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_axes(bottoms[0], 4)
        self.method = self.param.pooling_param.pool
        self.has_places = len(self.param.top) > 1
        if self.has_places and self.method != MAX:
            self.refuse("it has 2 tops, but only MAX pooling tells the places of its values")
        size = bottoms[0][2:]
        self.windows = self._read_windows(size)
        return [(*bottoms[0][:2], *self.windows.checked_counts(self, size, self.method))] * len(self.param.top)

    def _read_windows(self, size: Shape) -> PoolWindows:
        param = self.param.pooling_param
        stride = per_axis(self, param, "stride", 2, default=1, least=1)
        pad = per_axis(self, param, "pad", 2, default=0)
        if not param.global_pooling:
            kernel = per_axis(self, param, "kernel_size", 2, least=1)
            return PoolWindows(kernel, stride, pad, ceil=self._is_rounded_up())
        if any(param.HasField(field) for field in ("kernel_size", "kernel_h", "kernel_w")):
            self.refuse("global_pooling takes the whole image: leave the kernel's size out")
        if stride != (1, 1) or pad != (0, 0):
            self.refuse(f"global_pooling goes with stride 1 and pad 0, not with {stride} and {pad}")
        return PoolWindows(size, stride, pad)

    def _is_rounded_up(self) -> bool:
        param = self.param.pooling_param
        is_ceil = param.round_mode == PoolingParameter.CEIL
        if not param.HasField("ceil_mode"):
            return is_ceil
        if param.HasField("round_mode") and param.ceil_mode != is_ceil:
            self.refuse("ceil_mode and round_mode contradict each other: keep round_mode")
        return param.ceil_mode

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.has_places:
            return pool(x, self.windows, self.method, self.is_training)
        top, places = max_pool_with_places(x, self.windows)
        return top, places.to(x.dtype)


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: the image in 1 x 1, 2 x 2, 4 x 4 ... bins, each pooled, all in one row an item.

    A pyramid of height 1 keeps its axes, as in Caffe: (items, channels, 1, 1).
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_axes(bottoms[0], 4)
        param = self.param.spp_param
        if param.pyramid_height < 1:
            self.refuse(f"pyramid_height is {param.pyramid_height}, it must be 1 or more")
        items, channels, size = bottoms[0][0], bottoms[0][1], bottoms[0][2:]
        self.method = int(param.pool)
        self.levels = [_bins(2**level, size) for level in range(param.pyramid_height)]
        counts = [windows.checked_counts(self, size, self.method) for windows in self.levels]
        if len(counts) == 1:
            return [(items, channels, *counts[0])]
        return [(items, channels * sum(map(math.prod, counts)))]

    def forward(self, x: Tensor) -> Tensor:
        tops = [pool(x, windows, self.method, self.is_training) for windows in self.levels]
        return tops[0] if len(tops) == 1 else torch.cat([top.flatten(1) for top in tops], 1)


def _bins(bins: int, size: Shape) -> PoolWindows:
    """Windows side by side that part the image into so many bins on each axis, the rest padded evenly."""
    kernel = tuple(math.ceil(s / bins) for s in size)
    pad = tuple((k * bins - s + 1) // 2 for k, s in zip(kernel, size, strict=True))
    return PoolWindows(kernel, kernel, pad)
