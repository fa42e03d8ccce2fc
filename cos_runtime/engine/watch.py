"""The driver's watch over its ranks: which of them has fallen silent, or stands still."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# Where a rank stands that waits for the others: for gradients, which on a GPU is at the end of backward, or in torch's
# own functions. Not "wait": that is Python's, where a rank waits for its own records.
_EXCHANGE = ("arriving", "_engine_run_backward", "all_reduce", "broadcast", "all_gather_into_tensor")


@dataclass
class _Watched:
    host: str
    heard: float
    moved: float
    steps: int = -1
    place: str = ""


class Watch:
    """Takes the ranks' beats and tells who is overdue.

    Args:
        ranks: how many there are.
        limit: longest silence, or standing still, in seconds.
        clock: seconds, of any origin.
    """

    def __init__(self, ranks: int, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranks, self._limit, self._clock = ranks, limit, clock
        self._begin: float | None = None
        self._watched: dict[int, _Watched] = {}

    def heard(self, rank: int, host: str, steps: int = -1, place: str = "") -> None:
        """A rank said something: its first word, or a beat.

        Args:
            steps: how often it has gone on; any growing number.
            place: where in the program it is.
        """
        now = self._clock()
        watched = self._watched.setdefault(rank, _Watched(host, now, now))
        watched.heard, watched.place = now, place or watched.place
        if steps != watched.steps:
            watched.moved, watched.steps = now, steps
        self._begin = self._begin or now

    def ended(self, rank: int) -> None:
        """A rank is done, or has told why it failed: it is no longer expected to beat."""
        self._watched.pop(rank, None)
        self._ranks -= 1

    def keep_waiting(self) -> None:
        """The driver itself keeps ranks waiting: none of them stands still."""
        for watched in self._watched.values():
            watched.moved = self._clock()

    def pass_over(self, seconds: float) -> None:
        """The driver heard nobody for so long: this counts for none of the limits."""
        self._begin = self._begin and self._begin + seconds
        for watched in self._watched.values():
            watched.heard += seconds
            watched.moved += seconds

    def overdue(self) -> str | None:
        """What is wrong, if somebody has been silent or has not moved for longer than the limit."""
        now = self._clock()
        if self._begin is None or not self._watched:
            return None
        if len(self._watched) < self._ranks:
            return self._missing() if now - self._begin > self._limit else None
        silent = [rank for rank, watched in self._watched.items() if now - watched.heard > self._limit]
        if silent:
            return (
                f"{self._names(silent)} said nothing for {self._limit:g} s: "
                "it is stopped, out of reach, or its host is overloaded (-timeout sets the limit)"
            )
        if all(now - watched.moved > self._limit for watched in self._watched.values()):
            return f"{self._standing()} (-timeout sets the limit)"
        return None

    def _missing(self) -> str:
        missing = sorted(set(range(self._ranks)) - self._watched.keys())
        numbers = ", ".join(map(str, missing))
        return f"rank {numbers} did not start within {self._limit:g} s of the first one: see the executors' logs"

    def _standing(self) -> str:
        """All stand still: the cause is who is not waiting for the others."""
        at_work = [r for r, watched in self._watched.items() if not watched.place.endswith(_EXCHANGE)]
        culprits = at_work if at_work else list(self._watched)
        places = ", ".join(self._watched[rank].place for rank in culprits)
        return f"{self._names(culprits)} stood still for {self._limit:g} s, at {places}"

    def _names(self, ranks: list[int]) -> str:
        return ", ".join(f"rank {rank} on {self._watched[rank].host}" for rank in ranks)
