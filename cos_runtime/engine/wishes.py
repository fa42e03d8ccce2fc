"""What one rank has to tell all others between two steps, at no cost: it travels with the gradients."""

from __future__ import annotations

import math
import threading
from enum import IntEnum

import torch
from torch import Tensor, nn


class Wish(IntEnum):
    """What a rank can tell."""

    CHECKPOINT = 0  # write one at the end of this step
    LEAVE = 1  # and this rank ends after it
    DIVERGED = 2  # its loss is no finite number; never asked for


class Wishes(nn.Module):
    """A parameter with an element a wish, always 0, whose gradient is the wish.

    The exchange that averages the gradients of the weights averages this one too. So all ranks learn of a wish in the
    same step, whichever rank has it, and no message of its own holds up a step. A loss that is no finite number needs
    no asking: it makes numbers of none of them.

    Attributes:
        is_leaving: whether this rank was told to end.

    Example:
        >>> wishes = Wishes(torch.device("cpu"))
        >>> wishes.ask(Wish.CHECKPOINT)
        >>> wishes.carried_by(loss).backward()
        >>> wishes.agreed()
        {<Wish.CHECKPOINT: 0>}
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.carrier = nn.Parameter(torch.zeros(len(Wish), device=device))
        self.is_leaving = False
        self._own = self._none = torch.zeros(len(Wish), device=device)
        self._asked = threading.RLock()  # a signal's handler asks on this very thread
        self._late: tuple[Tensor, torch.cuda.Event] | None = None

    def ask(self, wish: Wish) -> None:
        """Put forward a wish, from any thread; it goes with the next step."""
        with self._asked:
            self._own = self._own.clone()
            self._own[wish] = 1.0

    def leave(self) -> None:
        """Tell that this rank must end."""
        self.is_leaving = True
        self.ask(Wish.LEAVE)

    def carried_by(self, loss: Tensor) -> Tensor:
        """The loss, a scalar, as it is, with this rank's wishes in its gradient."""
        with self._asked:
            own, self._own = self._own, self._none
        # A loss that is not finite is no number once multiplied by 0, and then no wish arrives as a number.
        return loss + torch.dot(self.carrier, own + loss.detach() * 0)

    def agreed(self) -> set[Wish]:
        """What any rank wished for in this step; on a GPU, in the one before, as its queue must not run dry."""
        if self.carrier.grad is None:
            return set()
        exchanged = self.carrier.grad.tolist() if not self.carrier.is_cuda else self._of_last_step(self.carrier.grad)
        if math.isnan(sum(exchanged)):
            return {Wish.DIVERGED}
        self.carrier.grad.zero_()
        return {wish for wish in Wish if exchanged[wish]}

    def _of_last_step(self, gradient: Tensor) -> list[float]:
        """The gradient given the last time; this one is on its way to the host."""
        on_host = torch.empty(len(Wish), pin_memory=True).copy_(gradient, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        last, self._late = self._late, (on_host, event)
        if last is None:
            return [0.0] * len(Wish)
        last[1].synchronize()
        found: list[float] = last[0].tolist()
        return found
