"""What a person sees on standard error, with a terminal and without one."""

import time
from collections.abc import Callable

import rich.console

from cos_runtime.engine.report import wording
from cos_runtime.engine.report.bar import Bar
from cos_runtime.engine.report.caffe_log import CaffeLog, glog_line
from cos_runtime.engine.report.events import Event, JobFinished, JobStarted, Progress
from cos_runtime.engine.report.files import ReportFiles
from cos_runtime.engine.report.lines import Lines, StreamLines
from cos_runtime.engine.report.record import JobRecord
from cos_runtime.engine.report.reporter import Reporter
from cos_runtime.engine.report.summary import job_summary
from cos_runtime.engine.report.terminal import columns

# Without a terminal, a job that displays rarely or never still shows this often that it lives.
_QUIET_SECONDS = 60.0


class Console:
    """Shows a job while it runs, and its summary when it is done.

    On a terminal that is a progress bar. Elsewhere it is Caffe's lines between a line that tells what starts and the
    summary, with no control characters.

    Args:
        files: the job's reports, named in the summary.
        terminal: whether there is a terminal; None asks standard error.
        console: rich's console to print to, for a width or a stream of one's own; by default standard error.
    """

    def __init__(
        self,
        files: ReportFiles | None = None,
        *,
        terminal: bool | None = None,
        console: rich.console.Console | None = None,
    ) -> None:
        width = columns() if terminal is None else None
        terminal = width is not None if terminal is None else terminal
        self._console = console or rich.console.Console(stderr=True, force_terminal=terminal, width=width)
        self._files = files
        self._record = JobRecord()
        self._view: Reporter = Bar(self._console) if terminal else Plain(StreamLines(self._console.file))

    def emit(self, event: Event) -> None:
        """Show one event."""
        self._record.emit(event)
        self._view.emit(event)
        if isinstance(event, JobFinished):
            job_summary(self._record, self._files).show(self._console)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._view.close()


class Plain:
    """Caffe's lines for a stream that is no terminal.

    Args:
        lines: where to.
        clock: seconds, of any origin.
    """

    def __init__(self, lines: Lines, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._caffe = CaffeLog(lines)
        self._clock = clock
        self._last_line = clock()

    def emit(self, event: Event) -> None:
        """Write the event's lines."""
        match event:
            case JobStarted():
                self._lines.write(wording.opening(event))
            case Progress() if self._clock() - self._last_line < _QUIET_SECONDS:
                return
            case Progress():
                # No thousands separators: scripts read the number.
                speed = wording.speed(event.images_per_second)
                self._lines.write(glog_line(f"Iteration {event.iteration}, {speed}"))
        self._caffe.emit(event)
        self._last_line = self._clock()

    def close(self) -> None:
        """Close the lines."""
        self._caffe.close()
