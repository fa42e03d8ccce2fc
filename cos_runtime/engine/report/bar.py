"""A job on a terminal: a bar with its numbers, and what happens above it."""

from collections.abc import Iterable

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from cos_runtime.engine.report import wording
from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)

_LONGEST_LABEL = 24


class Bar:
    """Draws the running job at the foot of the terminal; test passes and snapshots scroll by above.

    Args:
        console: the terminal.
    """

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._progress: _TwoLines | None = None
        self._facts: dict[str, str] = {}

    def emit(self, event: Event) -> None:
        """Draw one event."""
        match event:
            case JobStarted():
                self._start(event)
            case Progress():
                self._move(event.iteration, speed=wording.speed(event.images_per_second))
            case TrainStep(rate=None):
                self._move(event.iteration, loss=f"loss {event.loss:.4g}")
            case TrainStep():
                rate, speed = f"lr {event.rate:.4g}", wording.speed(event.images_per_second)
                self._move(event.iteration, loss=f"loss {event.loss:.4g}", rate=rate, speed=speed)
            case TestPass():
                net = f"test net #{event.net_index}" if event.net_index else "test"
                self._say(event.iteration, net, wording.outputs_line(event.outputs))
            case RecordsSkipped():
                self._console.print(Text(wording.skipped(event), style="yellow"), soft_wrap=True)
            case SnapshotSaved():
                self._say(event.iteration, "snapshot", event.path)
            case JobFinished():
                self.close()
            case JobFailed():
                self.close()
                self._console.print(Text(event.sentence, style="bold red"), soft_wrap=True)

    def close(self) -> None:
        """Take the bar away and give the terminal its cursor back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self, job: JobStarted) -> None:
        self.close()
        self._console.print(Text(wording.opening(job), style="bold"), soft_wrap=True)
        self._facts = {}
        self._progress = _TwoLines(self._console)
        self._progress.add_task(
            wording.activity(job)[:_LONGEST_LABEL], total=job.max_iter, completed=job.iteration, facts=""
        )
        self._progress.start()

    def _move(self, iteration: int, **facts: str) -> None:
        self._facts |= facts
        if self._progress is not None:
            shown = [self._facts[name] for name in ("loss", "rate", "speed") if name in self._facts]
            self._progress.update(TaskID(0), completed=iteration, facts="   ".join(shown))

    def _say(self, iteration: int, what: str, text: str) -> None:
        line = Text.assemble((f"Iteration {iteration:,}", "dim"), "  ", (what, "cyan"), "  ", text)
        self._console.print(line, soft_wrap=True)


class _TwoLines(RichProgress):
    """The bar and the times on one line, the numbers below: both fit 80 columns."""

    def __init__(self, console: rich.console.Console) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("elapsed,", style="dim"),
            TimeRemainingColumn(),
            TextColumn("left", style="dim"),
            console=console,
            expand=True,
            # The summary takes the bar's place.
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=60,
        )

    def get_renderables(self) -> Iterable[rich.console.RenderableType]:
        """The lines of the display."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(f"  {task.fields['facts']}", style="dim")
