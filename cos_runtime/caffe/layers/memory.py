"""What later layers in place leave in the memory of a blob, of which Caffe takes an earlier layer's derivative."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from cos_runtime.caffe.layers.activation import Pointwise


class Memory:
    """The memory of a layer's top.

    Args:
        layer: the layer, over whose top others are in place.
    """

    def __init__(self, layer: Pointwise) -> None:
        self._layer = layer
        self._left: list[Tensor] | None = None

    def compute(self, x: Tensor) -> Tensor:
        """The layer's top, with the derivative by what will be left."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return cast(Tensor, self._layer(x))
        self._left = []  # each forward pass has its own
        return cast(Tensor, _ByWhatIsLeft.apply(x, self._layer, self._left))

    def leave(self, top: Tensor) -> None:
        """Take the top of the last layer in place."""
        left, self._left = self._left, None  # the backward pass alone holds it on
        if left is not None:
            left.append(top.detach())


class _ByWhatIsLeft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Pointwise, left: list[Tensor]) -> Tensor:
        ctx.layer, ctx.left = layer, left
        if not layer.is_in_place:
            ctx.save_for_backward(x)
        return cast(Tensor, layer(x.detach()))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        (top,) = ctx.left
        bottom = top if ctx.layer.is_in_place else ctx.saved_tensors[0]
        return gradients[0] * ctx.layer.derivative(bottom, top), None, None
