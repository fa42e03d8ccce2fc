"""Loss scaling for float16, whose small gradients would be zeros, by torch's GradScaler (Micikevicius et al. 2018)."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from cos_runtime.caffe.solver import Rows, Solver
from cos_runtime.engine.numerics import Numerics

# torch's own defaults, named here as a state is restored whole.
_FIRST, _GROWTH, _BACKOFF, _INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The factor of the loss before its gradient is computed, and the update that takes it out again.

    An iteration whose gradients overflow leaves the weights as they are and halves the factor; after 2,000 good ones
    it is doubled. All ranks see the same gradients, and so come to the same factor. In other precisions it is 1.

    Args:
        numerics: says whether there is one.
        device: where the loss is.
        solver: makes the updates.
    """

    def __init__(self, numerics: Numerics, device: torch.device, solver: Solver) -> None:
        self._solver = solver
        self._scaler = torch.amp.GradScaler(
            device.type, _FIRST, _GROWTH, _BACKOFF, _INTERVAL, enabled=numerics.precision == "float16"
        )

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, a scalar, times the factor."""
        return self._scaler.scale(loss)

    def step(self, arriving: Iterable[Sequence[Rows]] = ()) -> None:
        """Update the weights by gradients of a loss from :meth:`scaled`, or pass over this iteration.

        Args:
            arriving: as for :meth:`Solver.step`.
        """
        if not self._scaler.is_enabled():
            self._solver.step(arriving)
            return
        collections.deque(arriving, maxlen=0)  # whether one of them overflows, only all of them show
        # Of an optimizer the scaler wants param_groups and step() alone.
        optimizer = cast("torch.optim.Optimizer", self._solver)
        before = self._solver.iteration
        self._scaler.step(optimizer)
        self._scaler.update()
        if self._solver.iteration == before:
            self._solver.skip()

    @property
    def state(self) -> tuple[float, int] | None:
        """The factor, and the good iterations since it changed; None where there is none."""
        found = self._scaler.state_dict()
        return (found["scale"], found["_growth_tracker"]) if found else None

    def restore(self, factor: float, good: int) -> None:
        """Go on from a state."""
        if self._scaler.is_enabled():
            names = {"growth_factor": _GROWTH, "backoff_factor": _BACKOFF, "growth_interval": _INTERVAL}
            state: dict[str, Any] = {"scale": factor, **names, "_growth_tracker": good}
            self._scaler.load_state_dict(state)
