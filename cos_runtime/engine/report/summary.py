"""The end of a job in a form that is pleasant to read."""

from dataclasses import dataclass

import rich.console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cos_runtime.engine.report import wording
from cos_runtime.engine.report.events import JobStarted
from cos_runtime.engine.report.files import ReportFiles
from cos_runtime.engine.report.record import JobRecord


@dataclass(frozen=True)
class Section:
    """A group of facts.

    Attributes:
        title: what they are about.
        rows: a name and a value each.
    """

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Summary:
    """What was done, with which result, and what to do next: a panel on a terminal, plain text elsewhere.

    It is a rich renderable and its ``str()`` is the plain text; :meth:`show` picks.

    Attributes:
        title: the headline.
        sections: the facts; those without rows are left out.
        next_steps: a purpose and a command each, to copy.
    """

    title: str
    sections: tuple[Section, ...]
    next_steps: tuple[tuple[str, str], ...] = ()

    def show(self, console: rich.console.Console | None = None) -> None:
        """Print it to ``console``, by default standard output; no line that a person may copy is cut in two."""
        console = console if console is not None else rich.console.Console()
        if not console.is_terminal:
            console.print(str(self), soft_wrap=True, markup=False, highlight=False)
            return
        console.print(self._panel())
        for line in self._next_lines():
            console.print(line, soft_wrap=True)

    def __str__(self) -> str:
        # No empty lines: scripts that parse a log which ends with this do not expect them.
        lines = [self.title]
        for section in self._filled():
            width = max(len(name) for name, _ in section.rows)
            lines.append(f"  {section.title}")
            lines += [f"    {name:<{width}}  {value}" for name, value in section.rows]
        return "\n".join(lines + [line.plain for line in self._next_lines()])

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        yield self._panel()
        yield from self._next_lines()

    def _filled(self) -> list[Section]:
        return [section for section in self.sections if section.rows]

    def _panel(self) -> Panel:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for index, section in enumerate(self._filled()):
            if index:
                grid.add_row("", "")
            grid.add_row(Text(section.title, style="bold cyan not dim"), "")
            for name, value in section.rows:
                grid.add_row(Text(f"  {name}"), Text(value))
        return Panel.fit(grid, title=Text(self.title, style="bold green"), title_align="left", padding=(1, 2))

    def _next_lines(self) -> list[Text]:
        return [
            Text.assemble((f"  {purpose}: ", "dim"), (command, "bold"), overflow="fold")
            for purpose, command in self.next_steps
        ]


def job_summary(record: JobRecord, files: ReportFiles | None = None) -> Summary:
    """The summary of a job, as far as it came.

    Args:
        record: what happened.
        files: where its reports lie, if it left any.
    """
    sections = (
        Section("Run", tuple(_run_rows(record))),
        Section("Test", tuple(_test_rows(record))),
        Section("Files", tuple(_file_rows(record, files))),
    )
    curves = (("see the curves", f"tensorboard --logdir {files.tensorboard}"),) if files else ()
    return Summary(_headline(record), sections, curves)


def _headline(record: JobRecord) -> str:
    name = record.job.net if record.job and record.job.net else "the net"
    kind = record.job.kind if record.job else "train"
    done = {"train": "trained", "test": "tested", "features": "features extracted"}[kind]
    time = f" in {wording.duration(record.finished.seconds)}" if record.finished else ""
    return f"{name[:1].upper()}{name[1:]}: {done}{time}"


def _run_rows(record: JobRecord) -> list[tuple[str, str]]:
    rows = []
    if record.job is not None:
        rows.append(("iterations", _iterations(record, record.job)))
        rows.append(("on", wording.machinery(record.job)))
    if record.finished is not None and record.finished.seconds > 0:
        speed = wording.speed(record.finished.images / record.finished.seconds)
        rows.append(("images", f"{record.finished.images:,}, {speed} on average"))
    if record.skipped:
        left_out, seen = (sum(getattr(one, name) for one in record.skipped.values()) for name in ("records", "seen"))
        rows.append(("damaged", f"{left_out:,} records left out by ranks that met {seen:,}"))
    if record.step is not None:
        rows.append(("last loss", f"{record.step.loss:.4g}"))
    return rows


def _iterations(record: JobRecord, job: JobStarted) -> str:
    past = f" (from {record.first_iteration:,})" if record.first_iteration else ""
    short = f" of {job.max_iter:,}" if job.max_iter is not None and record.iteration < job.max_iter else ""
    return f"{record.iteration:,}{short}{past}"


def _test_rows(record: JobRecord) -> list[tuple[str, str]]:
    several = len(record.tests) > 1
    return [
        (f"{name} (net #{index})" if several else name, wording.score(name, values))
        for index, test in sorted(record.tests.items())
        for name, values in test.outputs.items()
    ]


def _file_rows(record: JobRecord, files: ReportFiles | None) -> list[tuple[str, str]]:
    rows = []
    if record.job is not None and record.job.model_path is not None:
        rows.append(("model", record.job.model_path))
    if record.snapshot is not None:
        rows.append(("last snapshot", record.snapshot.state_path or record.snapshot.path))
    if files is not None:
        rows += [("log", files.log), ("metrics", files.metrics)]
    return rows
