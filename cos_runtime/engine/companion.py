"""A rank's second voice: it tells the driver that the rank lives, how far it is and where, and hears the driver."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from cos_runtime.engine.line import Line, Message

T = TypeVar("T")

BEAT = 1.0
# Only where the driver is seen to be gone: nothing can then be told to anybody.
_HANG_UP_POLL = 0.25


class Companion:
    """Beats over the line, on a thread of its own, as long as the rank works.

    Should the driver hang up, the process ends at once. A rank that waits in an exchange hears nothing else, and
    Spark's own way to it is gone when the executor's JVM is.

    Args:
        line: to the driver, whose answer has come already.
        on_message: called with every word of the driver's, on the companion's thread.
    """

    def __init__(self, line: Line, on_message: Callable[[Message], None]) -> None:
        self._line = line
        self._on_message = on_message
        self._read = 0
        self._count: Callable[[], int] = lambda: 0
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cos-companion", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def counted(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; each that is taken shows the driver that the rank goes on."""
        for item in items:
            self._read += 1
            yield item

    def follow(self, count: Callable[[], int]) -> None:
        """From now on a change of ``count()`` shows that too."""
        self._count = count

    def _run(self) -> None:
        beat = 0.0
        while not self._ended.is_set():
            try:
                if time.monotonic() >= beat:
                    self._line.send("beat", steps=self._read + self._count(), place=self._place())
                    beat = time.monotonic() + BEAT
                self._on_message(self._line.receive(_HANG_UP_POLL))
            except TimeoutError:
                continue
            except (EOFError, OSError):
                if not self._ended.is_set():
                    os.kill(os.getpid(), signal.SIGKILL)

    def _place(self) -> str:
        """Where the main thread is: ``my_layer.py:33 forward``."""
        frame = sys._current_frames().get(self._main)
        return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else ""
