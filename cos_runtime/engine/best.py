"""Which validation pass was the best, and whether to go on after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    """What a job tries to reach in its validation passes.

    Attributes:
        blob: the output of the TEST net that counts, by the mean of its values; empty for no aim.
        is_lower_better: as with a loss.
        patience: passes in a row without a better value after which training ends; 0 for no such end.
    """

    blob: str = ""
    is_lower_better: bool = False
    patience: int = 0


class Best:
    """The best value so far. Every rank keeps it and comes to the same, as a pass has the same outputs on all.

    Args:
        aim: what counts.
        value: the best of an earlier run that this one goes on from.
        stale: passes since then.
    """

    def __init__(self, aim: Aim, value: float | None = None, stale: int = 0) -> None:
        self.value, self.stale = value, stale
        self._aim = aim

    def take(self, outputs: Mapping[str, Sequence[float]]) -> bool:
        """Note a pass; true if it was better than all before. A value that is no number never is."""
        if not self._aim.blob:
            return False
        values = outputs[self._aim.blob]
        value = sum(values) / len(values)
        is_better = not math.isnan(value) and (
            self.value is None or (value < self.value if self._aim.is_lower_better else value > self.value)
        )
        self.value, self.stale = (value, 0) if is_better else (self.value, self.stale + 1)
        return is_better

    @property
    def is_enough(self) -> bool:
        """Whether training ends for want of a better value."""
        return bool(self._aim.patience) and self.stale >= self._aim.patience
