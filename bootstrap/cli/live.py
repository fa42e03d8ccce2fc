"""The picture of a running job."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cos_runtime.engine.report import wording

if TYPE_CHECKING:
    from bootstrap.jobs.record import JobRecord
    from bootstrap.progress import TrainingProgress

_SHOWN_RANKS = 16
_STYLES = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "yellow"}


def job_picture(record: "JobRecord", progress: "TrainingProgress", tail: list[str]) -> RenderableType:
    """A job with its progress and the end of its log.

    Args:
        record: the job.
        progress: what its metrics tell.
        tail: the last lines of its log.
    """
    parts: list[RenderableType] = []
    if progress.ranks:
        parts += [_bars(progress), Text(), _facts(record, progress)]
    elif not record.is_over:
        parts.append(Text(_waiting(record), style="dim"))
    if tail:
        parts += [Text(), *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in tail)]
    if record.message:
        parts += [Text(), Text(record.message, style="bold red")]
    title = Text.assemble(f"Job {record.id} ", (record.name, "bold"), "  ", (record.state, _STYLES[record.state]))
    time = "" if record.seconds is None else wording.duration(record.seconds)
    return Panel(Group(*parts), title=title, title_align="left", subtitle=time, subtitle_align="right", padding=(1, 2))


def _waiting(record: "JobRecord") -> str:
    return "waiting for its turn" if record.state == "queued" else "Spark starts, and the ranks meet"


def _bars(progress: "TrainingProgress") -> RenderableType:
    """A bar for the job and one for each rank."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    total = progress.max_iter or progress.iteration or 1
    done = f"{progress.iteration:,}/{total:,}"
    grid.add_row(Text(progress.net or "the net", style="bold"), ProgressBar(total, progress.iteration), done)
    # An update needs every rank's gradient: no rank is ahead of another by more than the step under way.
    for rank in range(min(progress.ranks, _SHOWN_RANKS)):
        bar = ProgressBar(total, progress.iteration, complete_style="blue", finished_style="blue")
        grid.add_row(Text(f"  rank {rank}", style="dim"), bar, Text(progress.device, style="dim"))
    if progress.ranks > _SHOWN_RANKS:
        grid.add_row(Text(f"  and {progress.ranks - _SHOWN_RANKS:,} more", style="dim"), "", "")
    grid.expand = True
    return grid


def _facts(record: "JobRecord", progress: "TrainingProgress") -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, value in _fact_rows(record, progress):
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid


def _fact_rows(record: "JobRecord", progress: "TrainingProgress") -> Iterator[tuple[str, str]]:
    if progress.first_step is not None:
        yield (
            "first step",
            f"{(progress.first_step - record.submitted).total_seconds():.1f} s after the job was submitted",
        )
    if progress.loss is not None:
        yield "loss", f"{progress.loss:.4g}   ({progress.first_loss:.4g} at first)"
    if progress.rate is not None:
        yield "learning rate", f"{progress.rate:.4g}"
    if progress.images_per_second is not None:
        yield "speed", wording.speed(progress.images_per_second)
    if progress.seconds is not None:
        yield "took", wording.duration(progress.seconds)
    elif progress.seconds_left is not None:
        yield "left", wording.duration(progress.seconds_left)
    for net, outputs in sorted(progress.tests.items()):
        values = {name: value if isinstance(value, list) else [value] for name, value in outputs.items()}
        yield f"test net #{net}" if net else "test", wording.outputs_line(values)
    if progress.snapshot:
        yield "snapshot", progress.snapshot
