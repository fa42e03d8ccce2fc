"""Gradients that Caffe takes otherwise than by differentiating the value."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class _GradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Any) -> tuple[None, Any]:
        return None, grads[0]


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """``value``, differentiated as if it were ``surrogate`` (of the same shape)."""
    return cast(Tensor, _GradientOf.apply(value, surrogate))


def with_factor(x: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """``value``, a function of ``x``, whose gradient is ``factor`` times its own."""
    return with_gradient_of(x * factor.detach(), value)


class _GradientIs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        return ctx.saved_tensors[0], None, None


def with_gradient(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """``value``, whose gradient for ``x`` is ``gradient``, whatever comes from above."""
    return cast(Tensor, _GradientIs.apply(x, value, gradient.detach()))


def of_last_pass(blob: nn.Parameter, view: Tensor) -> Tensor:
    """A view of a parameter blob, by which a backward pass overwrites the gradient of the one before."""

    def forget(_: Tensor) -> None:
        if blob.grad is not None:
            blob.grad.zero_()

    view = view.view(view.shape)  # a hook on the blob itself would stay
    if view.requires_grad:
        view.register_hook(forget)  # type: ignore[no-untyped-call]
    return view


def root_plus(square: Tensor, epsilon: float) -> Tensor:
    """sqrt(square) + epsilon with the gradient 1 / (2 * (sqrt(square) + epsilon)), which is finite at zero."""
    root = square.detach().sqrt() + epsilon
    return with_gradient_of(square / (2 * root), root)
