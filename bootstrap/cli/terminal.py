"""The one place that writes to the terminal."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Cell = str | int | float | None


class Terminal:
    """Results on stdout, everything else on stderr.

    Attributes:
        debug: Whether an error shows its stack trace.
        json: Whether results are JSON, for programs.
        quiet: Whether nothing but results and errors is told.
    """

    def __init__(self) -> None:
        self.debug = False
        self.json = False
        self.quiet = False

    @property
    def is_live(self) -> bool:
        """Whether somebody watches who can be shown moving pictures."""
        return not (self.json or self.quiet) and self.console(stderr=True).is_terminal

    def say(self, text: str) -> None:
        """Print a result as it is."""
        self.console().print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, picture: "RenderableType") -> None:
        """Print one of rich's pictures as a result."""
        self.console().print(picture)

    def data(self, result: object) -> None:
        """Print a result as JSON."""
        self.say(json.dumps(result, indent=None if isinstance(result, str) else 2))

    def raw(self, piece: bytes) -> None:
        """Pass bytes on as a result."""
        with open(os.dup(1), "wb") as stdout:
            stdout.write(piece)

    def note(self, text: str) -> None:
        """Tell what goes on."""
        if not self.quiet:
            self.console(stderr=True).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Tell what went wrong."""
        console = self.console(stderr=True)
        console.print("cos: ", style="bold red", end="")
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, rows: Sequence[Sequence[Cell]], header: Sequence[str] = ()) -> None:
        """Print rows of text: in columns, and off a terminal too."""
        texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
        lines = [list(header), *texts] if header else texts
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
        for index, line in enumerate(lines):
            cells = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)]
            style = "bold" if header and not index else None
            self.console().print(
                "  ".join(cells).rstrip() if header else f"  {'  '.join(cells)}".rstrip(),
                style=style,
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    @contextmanager
    def progress(self, what: str, total: int) -> "Iterator[Progress]":
        """A bar of bytes, where somebody watches."""
        if not self.is_live or not total:
            yield lambda _path, _count: None
            return
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Bar(*columns, console=self.console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda _path, count: bar.advance(task, count)

    @staticmethod
    def console(*, stderr: bool = False) -> "Console":
        """A console of rich's on the stream that counts now."""
        # Made anew each time, and rich is imported once there is something to say.
        from rich.console import Console  # noqa: PLC0415

        return Console(stderr=stderr)


if TYPE_CHECKING:
    from bootstrap.transfer import Told as Progress

terminal = Terminal()
