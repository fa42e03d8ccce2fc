"""The table of results, and docs/benchmarks.md around it."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Result

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_HEAD = ("what", "against", "ours", "theirs", "ratio (spread)", "wanted")


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(result.row for result in results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write(results: Sequence[Result], runs: int) -> None:
    """Write the page for this machine."""
    today = datetime.datetime.now(datetime.UTC).date()
    names = " ".join(result.benchmark.name for result in results)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyspark", "pyarrow"))
    text = f"""# Benchmarks

Written by `make bench` on {today}: `python -m benchmarks {names} --runs {runs} --write`.

Both sides of a row are measured beside each other, {runs} times: the figures are medians, and a ratio above 1 is in our
favour. Each process computes on one thread unless a row says otherwise. A ratio says something about this machine only.

Machine: {machine()}. Python {platform.python_version()}, {libraries}.

{table(results)}"""
    PAGE.write_text(text + reasons(results))


def reasons(results: Sequence[Result]) -> str:
    """Why those that are below what is wanted are."""
    below = [each.benchmark for each in results if each.ratio < each.benchmark.at_least and each.benchmark.why]
    lines = "".join(f"- `{each.name}`: {each.why}\n" for each in below)
    return f"\n## Why some are below\n\n{lines}" if below else ""


def machine() -> str:
    """The processor, its cores and the memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
