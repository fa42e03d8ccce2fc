"""The table of results, and docs/benchmarks.md around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Benchmark
from benchmarks.results import Result

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_HEAD = ("what", "against", "ours", "theirs", "ratio (spread)", "wanted", "runs", "day, machine")

Rows = Sequence[tuple[Benchmark, Result]]


def table(rows: Rows) -> str:
    """The results as Markdown."""
    machines = _machines(rows)
    cells = [_HEAD, ("---",) * len(_HEAD), *(result.row(benchmark, machines) for benchmark, result in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def write(benchmarks: Mapping[str, Benchmark], results: Mapping[str, Result]) -> None:
    """Write the page of all results that there are, in the benchmarks' order."""
    rows = [(benchmark, results[name]) for name, benchmark in benchmarks.items() if name in results]
    machines = "\n".join(f"{number}. {machine}" for number, machine in enumerate(_machines(rows), 1))
    text = f"""# Benchmarks

Written by `make bench`, which measures every row five times; `make bench BENCH="NAME … --runs N"` measures some, and
leaves the other rows as they are.

Both sides of a row are measured beside each other, as many times as the row says: the figures are medians, and a
ratio above 1 is in our favour. Each process computes on one thread unless a row says otherwise. A ratio says something
about its machine only.

{machines}

{table(rows)}"""
    PAGE.write_text(text + _reasons(rows))


def _machines(rows: Rows) -> list[str]:
    return list(dict.fromkeys(result.machine for _, result in rows))


def _reasons(rows: Rows) -> str:
    """Why those that are below what is wanted are."""
    below = [benchmark for benchmark, result in rows if result.falls_short(benchmark) and benchmark.why]
    lines = "".join(f"- `{each.name}`: {each.why}\n" for each in below)
    return f"\n## Why some are below\n\n{lines}" if below else ""
