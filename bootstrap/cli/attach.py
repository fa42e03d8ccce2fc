"""Watching a job: pictures on a terminal, its log elsewhere, nothing where nothing is wanted."""

import time
from typing import TYPE_CHECKING

import typer

from bootstrap.cli import jobs as verbs
from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import Site, plain
from bootstrap.follow import POLL_SECONDS, follow, read_some
from bootstrap.host import ConnectionLostError
from bootstrap.jobs.client import Jobs
from bootstrap.jobs.record import JobRecord
from bootstrap.progress import TrainingProgress
from bootstrap.submit import INTERRUPTED
from bootstrap.transfer import again

if TYPE_CHECKING:
    from rich.live import Live

# Whether a silent job's runner still lives is asked this often only: it costs the host a process.
_LIFE_SECONDS = 10.0
_TAIL_LINES = 4
_FAILED = 1


class Watch:
    """Knows a job's newest record.

    Attributes:
        record: as of the last look.
    """

    def __init__(self, jobs: Jobs, record: JobRecord) -> None:
        self.record = record
        self._jobs = jobs
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        """Look, and tell whether the job has ended."""
        if not self.record.is_over:
            self.record = self._jobs.peek(self.record.id)
            if not self.record.is_over and time.monotonic() - self._looked > _LIFE_SECONDS:
                self.record = self._jobs.get(self.record.id)
                self._looked = time.monotonic()
        return self.record.is_over


def see_through(there: Site, record: JobRecord) -> None:
    """Watch a job to its end, bring what it wrote, and exit with its code.

    Ctrl-C leaves the job alone, and exits with 130.
    """
    watch = Watch(there.jobs, record)
    where = "" if there.cluster is None else f" --cluster {there.name}"
    try:
        _watch(there, watch)
        record = watch.record
        if record.state == "succeeded" and there.cluster and record.results:
            for path in verbs.fetch(there, record):
                terminal.note(f"fetched {path}")
    except KeyboardInterrupt:
        terminal.note(
            f"Detached: job {record.id} goes on. `cos attach {record.id}{where}` comes back to it, "
            f"`cos cancel {record.id}{where}` ends it."
        )
        raise typer.Exit(INTERRUPTED) from None
    except ConnectionLostError as error:
        raise ConnectionLostError(
            f"{error} Job {record.id} goes on without: `cos attach {record.id}{where}`."
        ) from error
    _finish(there, record)


def _watch(there: Site, watch: Watch) -> None:
    if terminal.is_live:
        _draw(there, watch)
    elif terminal.json or terminal.quiet:
        while not watch.is_over():
            time.sleep(POLL_SECONDS)
    else:
        for piece in follow(there.host, there.jobs.log(watch.record.id), watch.is_over):
            terminal.raw(piece)


def _draw(there: Site, watch: Watch) -> None:
    """Show the job on the terminal until it has ended."""
    from rich.live import Live  # noqa: PLC0415 - a terminal alone needs it

    terminal.note("Ctrl-C detaches: the job goes on.")
    progress, offset = TrainingProgress(), 0
    with Live(console=terminal.console(stderr=True), refresh_per_second=4, transient=True) as live:
        is_last = False
        while not is_last:
            is_last = watch.is_over()
            offset += _read_metrics(there, watch.record, progress, offset)
            _show(there, watch.record, progress, live)
            if not is_last:
                time.sleep(POLL_SECONDS)
    from bootstrap.cli.live import job_picture  # noqa: PLC0415

    lines = _tail(there, watch.record) if not progress.ranks else []
    terminal.console(stderr=True).print(job_picture(watch.record, progress, lines))


def _show(there: Site, record: JobRecord, progress: TrainingProgress, live: "Live") -> None:
    from bootstrap.cli.live import job_picture  # noqa: PLC0415

    live.update(job_picture(record, progress, [] if progress.ranks else _tail(there, record)))


def _read_metrics(there: Site, record: JobRecord, progress: TrainingProgress, offset: int) -> int:
    """Take in what is new in the metrics file, and how many bytes that was."""
    if record.metrics is None:
        return 0
    piece = again()(read_some, there.host, record.metrics, offset)
    progress.feed(piece)
    return len(piece)


def _tail(there: Site, record: JobRecord) -> list[str]:
    _, tail = verbs.last_lines(there, there.jobs.log(record.id), _TAIL_LINES)
    return tail.decode(errors="replace").splitlines()


def _finish(there: Site, record: JobRecord) -> None:
    """Tell how the job ended, and exit as it did."""
    if terminal.json:
        terminal.data(plain(record))
    elif record.state == "failed":
        terminal.error(f"job {record.id} failed: {record.message}")
    elif record.state == "cancelled":
        terminal.note(f"Job {record.id} was cancelled.")
    if record.state != "succeeded":
        raise typer.Exit(record.exit_code or _FAILED)
