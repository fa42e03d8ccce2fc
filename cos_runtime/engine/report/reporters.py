"""All reporters of a job as one, and the usual set of them."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from cos_runtime.engine.report.caffe_log import CaffeLog
from cos_runtime.engine.report.console import Console
from cos_runtime.engine.report.events import Event
from cos_runtime.engine.report.files import ReportFiles
from cos_runtime.engine.report.lines import open_lines
from cos_runtime.engine.report.metrics_file import MetricsFile
from cos_runtime.engine.report.reporter import Reporter
from cos_runtime.engine.report.tensorboard import TensorBoard

_log = logging.getLogger(__name__)


class Reporters:
    """Hands every event to each of several reporters; safe to call from several threads.

    A report that cannot be written (a full disk, a store out of reach) never ends the job it reports on: the first
    failure of each reporter is a warning, and it is given the next event all the same. Events that arrive after
    :meth:`close` are dropped: a rank's last sign of life may be late.

    Example:
        >>> with open_reporters("/data/models") as reporters:
        ...     reporters.emit(JobStarted(kind="train", ranks=2, backend="gloo", device="cpu", batch_size=64))
    """

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)
        self._lock = threading.RLock()
        self._failed: set[int] = set()
        self._closed = False

    def emit(self, event: Event) -> None:
        """Hand on one event."""
        with self._lock:
            if self._closed:
                return
            for reporter in self._reporters:
                self._guarded(reporter, partial(reporter.emit, event))

    def close(self) -> None:
        """Close every reporter; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for reporter in self._reporters:
                self._guarded(reporter, reporter.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guarded(self, reporter: Reporter, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever a report breaks on, the job is worth more
            if id(reporter) not in self._failed:
                self._failed.add(id(reporter))
                name = type(reporter).__name__
                _log.warning("%s has gaps from here on, the job goes on: %s: %s", name, type(error).__name__, error)


def open_reporters(folder: str | None, *, terminal: bool | None = None) -> Reporters:
    """The reporters of one job: what a person sees on standard error and, in a folder, the files that stay.

    Files of an earlier run in the folder are appended to, never overwritten.

    Args:
        folder: path or URL of the model's folder, for ``train.log``, ``metrics.jsonl`` and ``tensorboard/``; None for
            a job that leaves no such files.
        terminal: whether a progress bar may be drawn; None asks standard error.

    Raises:
        UserError: a file in the folder cannot be written.
    """
    files = ReportFiles(folder) if folder is not None else None
    # The console first: the others may take a moment, and a person is waiting.
    reporters: list[Reporter] = [Console(files, terminal=terminal)]
    if files is not None:
        reporters += [
            CaffeLog(open_lines(files.log)),
            MetricsFile(open_lines(files.metrics)),
            TensorBoard(files.tensorboard),
        ]
    return Reporters(reporters)
