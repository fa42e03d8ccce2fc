"""Max pooling of images (items, channels, height, width) with the places of the maxima."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

# Planes pooled at a time: as many as a core's cache takes, and no less than its vectors are long.
_VALUES, _LEAST_PLANES = 2**17, 16

Windows = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, int], bool]


def maxima(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...], ceil: bool
) -> tuple[Tensor, Tensor]:
    """torch's ``max_pool2d_with_indices``: the maxima, and where each is in its plane (row * width + column)."""
    windows = kernel, stride, pad, (1, 1), ceil
    if x.is_cpu and x.is_contiguous() and x.numel() and not torch.compiler.is_exporting():
        return cast(tuple[Tensor, Tensor], _OfPlanes.apply(x, windows))
    return functional.max_pool2d_with_indices(x, *windows)


class _OfPlanes(torch.autograd.Function):
    """Pools planes as the channels of images in channels_last, for which torch's loop has vectors: a third of the time.

    Nothing but the places is kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        planes, count = x.flatten(0, 1), max(_LEAST_PLANES, _VALUES // (x.shape[2] * x.shape[3]))
        size = functional.max_pool2d_with_indices(planes[:1].to("meta"), *windows)[0].shape[1:]
        top = x.new_empty((*x.shape[:2], *size))
        places = torch.empty_like(top, dtype=torch.int64)
        blocks = (torch.split(each, count) for each in (planes, top.flatten(0, 1), places.flatten(0, 1)))
        for block, block_top, block_places in zip(*blocks, strict=True):
            image = block[None].contiguous(memory_format=torch.channels_last)
            found = functional.max_pool2d_with_indices(image, *windows)
            block_top.copy_(found[0][0])
            block_places.copy_(found[1][0])
        ctx.save_for_backward(places)
        ctx.mark_non_differentiable(places)
        ctx.windows, ctx.size = windows, x.shape
        return top, places

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        # torch wants the bottom, but looks at its size alone.
        bottom = grads[0].new_empty(1).expand(ctx.size)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(grads[0], bottom, *ctx.windows, *ctx.saved_tensors), None
