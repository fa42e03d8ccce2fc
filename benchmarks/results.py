"""What was measured, when and on which machine: `results.json`, of which the page is made."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Benchmark, Pair

STORE = Path(__file__).with_name("results.json")
_LIBRARIES = ("torch", "pyspark", "pyarrow")


@dataclass(frozen=True)
class Result:
    """A benchmark's runs.

    Attributes:
        pairs: Both sides' figures of each run.
        date: The day, in UTC.
        machine: On which it was measured, and with which libraries.
    """

    pairs: Sequence[Pair]
    date: str
    machine: str

    def row(self, benchmark: Benchmark, machines: Sequence[str]) -> list[str]:
        """The cells of the result's row."""
        ours, theirs = (statistics.median(side) for side in zip(*self.pairs, strict=True))
        ratios = self.ratios(benchmark)
        return [
            f"`{benchmark.name}`: {benchmark.what}",
            benchmark.against,
            f"{ours:,.4g} {benchmark.unit}",
            f"{theirs:,.4g} {benchmark.unit}",
            f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{benchmark.at_least:g}",
            str(len(self.pairs)),
            f"{self.date}, {machines.index(self.machine) + 1}",
        ]

    def ratios(self, benchmark: Benchmark) -> list[float]:
        """A ratio a run, in ascending order."""
        return sorted(map(benchmark.ratio, self.pairs))

    def falls_short(self, benchmark: Benchmark) -> bool:
        """Whether the median is less than what is wanted."""
        return statistics.median(self.ratios(benchmark)) < benchmark.at_least


def here(pairs: Sequence[Pair]) -> Result:
    """What was measured today, on this machine."""
    return Result(pairs, datetime.datetime.now(datetime.UTC).date().isoformat(), _machine())


def load() -> dict[str, Result]:
    """The results by the benchmarks' names."""
    stored: dict[str, dict[str, Any]] = json.loads(STORE.read_text()) if STORE.exists() else {}
    return {name: Result(**entry) for name, entry in stored.items()}


def store(results: Mapping[str, Result]) -> None:
    """Keep these results, and of other benchmarks those that are there."""
    entries = [f'"{name}": {json.dumps(asdict(result))}' for name, result in sorted((load() | {**results}).items())]
    STORE.write_text("{\n" + ",\n".join(entries) + "\n}\n")


def _machine() -> str:
    """The processor, its cores and the memory, and the libraries."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    cores = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory"
    return f"{model}, {cores}, {platform.system()}; Python {platform.python_version()}, {libraries}"
