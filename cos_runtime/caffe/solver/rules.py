"""Update rules: ``ComputeUpdateValue`` of the six solvers of BVLC Caffe (``src/caffe/solvers/*_solver.cpp``).

A rule works on lists of blobs with few calls over whole lists. ``g`` is a blob's gradient, normalised and with its
weight decay; ``rate`` the learning rate times the blob's ``lr_mult``; the weights become ``w - update``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.caffe.upgrade import upgrade_solver
from cos_runtime.errors import UserError

RULES: dict[str, type[UpdateRule]] = {}
"""Every known update rule by the solver's ``type``."""

Tensors = list[Tensor] | tuple[Tensor, ...]


class UpdateRule(ABC):
    """How gradients become updates of the weights.

    Args:
        param: the solver.

    Raises:
        UserError: Caffe has no such solver of this type.
    """

    name: ClassVar[str]
    """The solver's ``type``, given by :func:`register`."""
    histories: ClassVar[int] = 1
    """Number of history blobs that the rule keeps for each parameter blob."""
    non_negative: ClassVar[tuple[int, ...]] = ()
    """Which of them are means of squares: a state with negative ones is another rule's."""
    keeps_history_at_rate_0: ClassVar[bool] = True
    """Whether the histories of a blob whose rate is 0 are others than zeros."""

    def __init__(self, param: SolverParameter) -> None:
        self.momentum: float = param.momentum
        self.delta: float = param.delta

    @abstractmethod
    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Bring the histories up to date and return what is to be subtracted from the weights.

        Args:
            gradients: of each blob; the rule may overwrite them.
            histories: for each history that the rule keeps, a tensor a blob.
            rate: learning rate of these blobs.
            iteration: number of updates before this one.
        """


R = TypeVar("R", bound=type[UpdateRule])


def register(name: str) -> Callable[[R], R]:
    """Class decorator: make a rule known by the name that the solver's ``type`` uses."""

    def add(cls: R) -> R:
        cls.name = name
        RULES[name] = cls
        return cls

    return add


def find_rule(param: SolverParameter) -> UpdateRule:
    """The solver's rule, by ``type`` or by the legacy enum ``solver_type``.

    Raises:
        UserError: the type is unknown, given twice, or its values do not fit.
    """
    param = upgrade_solver(param)
    name = param.type
    if name not in RULES:
        raise UserError(f'solver type "{name}" is unknown: use one of {", ".join(RULES)}')
    return RULES[name](param)


def _decay(averages: Tensors, factor: float, gradients: Tensors) -> None:
    """average = factor * average + (1 - factor) * g^2."""
    torch._foreach_mul_(averages, factor)
    torch._foreach_addcmul_(averages, gradients, gradients, 1 - factor)


@register("SGD")
class Sgd(UpdateRule):
    """h = momentum * h + rate * g; update = h.

    The rate is inside the history, unlike in torch: a change of it does not touch what is in motion.
    """

    keeps_history_at_rate_0 = False

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``SGDSolver``."""
        (history,) = histories
        torch._foreach_mul_(history, self.momentum)
        torch._foreach_add_(history, gradients, alpha=rate)
        return history


@register("Nesterov")
class Nesterov(UpdateRule):
    """h' = momentum * h + rate * g; update = (1 + momentum) * h' - momentum * h."""

    keeps_history_at_rate_0 = False

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``NesterovSolver``."""
        (history,) = histories
        update = torch._foreach_mul(history, -self.momentum)
        torch._foreach_mul_(history, self.momentum)
        torch._foreach_add_(history, gradients, alpha=rate)
        torch._foreach_add_(update, history, alpha=1 + self.momentum)
        return update


class _ScaledRule(UpdateRule):
    """Rules that divide the gradient by the root of a history of squares and have no momentum."""

    non_negative = (0,)

    def __init__(self, param: SolverParameter) -> None:
        super().__init__(param)
        if param.momentum:
            raise UserError(f"momentum is {param.momentum:g}: a solver of type {self.name} has none, remove it")

    def _scaled(self, gradients: Tensors, squares: Tensors, rate: float) -> Tensors:
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self.delta)
        torch._foreach_div_(gradients, roots)
        torch._foreach_mul_(gradients, rate)
        return gradients


@register("AdaGrad")
class AdaGrad(_ScaledRule):
    """h = h + g^2; update = rate * g / (sqrt(h) + delta)."""

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``AdaGradSolver``."""
        (squares,) = histories
        torch._foreach_addcmul_(squares, gradients, gradients)
        return self._scaled(gradients, squares, rate)


@register("RMSProp")
class RmsProp(_ScaledRule):
    """h = rms_decay * h + (1 - rms_decay) * g^2; update = rate * g / (sqrt(h) + delta)."""

    def __init__(self, param: SolverParameter) -> None:
        super().__init__(param)
        _check_fraction(param.rms_decay, "rms_decay")
        self.rms_decay: float = param.rms_decay

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``RMSPropSolver``."""
        (squares,) = histories
        _decay(squares, self.rms_decay, gradients)
        return self._scaled(gradients, squares, rate)


@register("AdaDelta")
class AdaDelta(UpdateRule):
    """Two histories, of the squares of gradients and of steps.

    h = momentum * h + (1 - momentum) * g^2; s = g * sqrt((delta + k) / (delta + h));
    k = momentum * k + (1 - momentum) * s^2; update = rate * s.
    """

    histories = 2
    non_negative = (0, 1)

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``AdaDeltaSolver``."""
        squares, steps = histories
        _decay(squares, self.momentum, gradients)
        ratios = torch._foreach_add(steps, self.delta)
        torch._foreach_div_(ratios, torch._foreach_add(squares, self.delta))
        torch._foreach_sqrt_(ratios)
        torch._foreach_mul_(gradients, ratios)
        _decay(steps, self.momentum, gradients)
        torch._foreach_mul_(gradients, rate)
        return gradients


@register("Adam")
class Adam(UpdateRule):
    """Two histories, of gradients and of their squares; t counts from 1.

    m = momentum * m + (1 - momentum) * g; v = momentum2 * v + (1 - momentum2) * g^2;
    update = rate * sqrt(1 - momentum2^t) / (1 - momentum^t) * m / (sqrt(v) + delta).
    """

    histories = 2
    non_negative = (1,)

    def __init__(self, param: SolverParameter) -> None:
        super().__init__(param)
        _check_fraction(param.momentum, "momentum")
        _check_fraction(param.momentum2, "momentum2")
        self.momentum2: float = param.momentum2

    def update(self, gradients: Tensors, histories: Sequence[Tensors], rate: float, iteration: int) -> Tensors:
        """Caffe's ``AdamSolver``."""
        means, squares = histories
        torch._foreach_mul_(means, self.momentum)
        torch._foreach_add_(means, gradients, alpha=1 - self.momentum)
        _decay(squares, self.momentum2, gradients)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self.delta)
        torch._foreach_copy_(gradients, means)
        torch._foreach_div_(gradients, roots)
        count = iteration + 1
        torch._foreach_mul_(gradients, rate * math.sqrt(1 - self.momentum2**count) / (1 - self.momentum**count))
        return gradients


def _check_fraction(value: float, name: str) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name} is {value:g}: it must be 0 or more and less than 1")
