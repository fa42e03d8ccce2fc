"""The loss that a solver displays."""

from collections import deque

import torch
from torch import Tensor


class SmoothedLoss:
    """The mean of the last losses (``Solver::UpdateSmoothedLoss`` of BVLC Caffe's ``solver.cpp``).

    Args:
        average_loss: how many at most.
    """

    def __init__(self, average_loss: int) -> None:
        self._losses: deque[Tensor] = deque(maxlen=average_loss)

    def add(self, loss: Tensor) -> None:
        """Take the loss of one more iteration: a scalar, which stays on its device."""
        self._losses.append(loss.detach())

    def mean(self) -> Tensor:
        """Mean of the losses so far, a scalar on their device."""
        return torch.stack(list(self._losses)).mean()
