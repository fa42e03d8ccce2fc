"""How fast a rank goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_HEARTBEAT = 0.5


class Pace:
    """Speed over the laps between displays and over the time since the last heartbeat, without pauses."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._lap_start = self._beat_start = time.monotonic()
        self._lap_steps = self._beat_steps = 0

    def step(self) -> None:
        """One more step is made."""
        self._lap_steps += 1
        self._beat_steps += 1

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside counts for no speed."""
        start = time.monotonic()
        yield
        length = time.monotonic() - start
        self._lap_start += length
        self._beat_start += length

    def lap(self) -> tuple[float, float]:
        """Seconds and images a second since the last lap."""
        now = time.monotonic()
        seconds, steps = now - self._lap_start, self._lap_steps
        self._lap_start, self._lap_steps = now, 0
        return seconds, steps * self._images_per_step / seconds if seconds else 0.0

    def heartbeat_is_due(self) -> bool:
        """Whether it is time for a sign of life."""
        return time.monotonic() - self._beat_start >= _HEARTBEAT

    def recent(self) -> float:
        """Images a second since the last heartbeat."""
        now = time.monotonic()
        speed = self._beat_steps * self._images_per_step / (now - self._beat_start)
        self._beat_start, self._beat_steps = now, 0
        return speed
