"""Tables for people: columns under their titles, as wide as they must be."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def render(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """The rows as text; the columns named in ``right`` are of numbers, set to the right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe or a file has no width: nothing is to be cut off for it, and no layer's name taken for markup.
    console = Console(file=io.StringIO(), width=10_000, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def sizes(shape: Sequence[int]) -> str:
    """A shape as people write it."""
    return " x ".join(map(str, shape)) if shape else "scalar"
