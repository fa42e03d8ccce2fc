"""Local response normalization across channels, in few passes over memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

# What lies between bottom and top has this many values at a time, so that it stays in a core's cache.
_BLOCK = 2**18


@dataclass(frozen=True)
class ChannelResponse:
    """top = x * s ^ -beta, with s = k + alpha * the sum of x^2 over the ``size`` channels around.

    Images are (items, channels, height, width), of any layout in memory; halves are computed as float32.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def write_top(self, top: Tensor, x: Tensor) -> None:
        """The top of an image x."""
        x = _wide(x)
        torch.mul(x, self._power(self._inverse(x)), out=top)

    def write_gradient(self, gradient: Tensor, x: Tensor, of_top: Tensor) -> None:
        """The gradient of x from the top's: g * s ^ -beta - 2 * alpha * beta * x * the sum around of g * top / s."""
        x = _wide(x)
        inverse = self._inverse(x)
        direct = self._power(inverse).mul_(of_top)
        shares = self._sum_around(inverse.mul_(direct).mul_(x))
        torch.addcmul(direct, x, shares, value=-2 * self.beta, out=gradient)

    def _inverse(self, x: Tensor) -> Tensor:
        """1 / s."""
        return self._sum_around(x.square()).add_(self.k).reciprocal_()

    def _power(self, inverse: Tensor) -> Tensor:
        """s ^ -beta."""
        if self.beta != 0.75:
            return inverse.pow(self.beta)
        # That of AlexNet and GoogLeNet: two roots take a third of a power's time.
        root = inverse.sqrt()
        return root.sqrt().mul_(root)

    def _sum_around(self, values: Tensor) -> Tensor:
        """alpha * the sum of the values over the channels around."""
        channels, half = values.shape[1], self.size // 2
        padded = functional.pad(values, (0, 0, 0, 0, half, half))
        total = padded.narrow(1, 0, channels) * self.alpha
        for start in range(1, self.size):
            total.add_(padded.narrow(1, start, channels), alpha=self.alpha)
        return total


def across_channels(x: Tensor, response: ChannelResponse) -> Tensor:
    """The response to images x; for the gradient nothing but x is kept."""
    return cast(Tensor, _AcrossChannels.apply(x, response))


class _AcrossChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, response: ChannelResponse) -> Tensor:
        ctx.save_for_backward(x)
        ctx.response = response
        return _by_blocks(response.write_top, x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return _by_blocks(ctx.response.write_gradient, *ctx.saved_tensors, *grads), None


def _by_blocks(write: Callable[..., None], x: Tensor, *others: Tensor) -> Tensor:
    """What ``write`` makes of the images (items, ...), on a CPU of a few at a time."""
    result = torch.empty_like(x)
    whole = (result, x, *others)
    if not x.is_cpu or torch.compiler.is_exporting():
        write(*whole)
        return result
    items = max(1, _BLOCK // max(1, x[:1].numel()))
    for parts in zip(*(torch.split(each, items) for each in whole), strict=True):
        write(*parts)
    return result


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
