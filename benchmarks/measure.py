"""A benchmark: two ways to the same end, measured beside each other several times."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Pair = tuple[float, float]


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        name: As the command line has it.
        what: Our side, in a few words.
        against: The other side.
        unit: Of both figures.
        at_least: The ratio that is wanted.
        measure: Measures both once, ours first.
        less_is_better: Whether the figures are times and not rates.
        why: Why the ratio is what it is, where that is less than wanted.
    """

    name: str
    what: str
    against: str
    unit: str
    at_least: float
    measure: Callable[[], Pair]
    less_is_better: bool = False
    why: str = ""

    def ratio(self, pair: Pair) -> float:
        """How many times better ours is."""
        ours, theirs = pair
        return theirs / ours if self.less_is_better else ours / theirs


@dataclass(frozen=True)
class Result:
    """A benchmark's runs."""

    benchmark: Benchmark
    pairs: Sequence[Pair]

    @property
    def ratios(self) -> list[float]:
        """A ratio a run, in ascending order."""
        return sorted(map(self.benchmark.ratio, self.pairs))

    @property
    def ratio(self) -> float:
        """The median of the runs' ratios."""
        return statistics.median(self.ratios)

    @property
    def row(self) -> list[str]:
        """The cells of the result's row."""
        bench, ratios = self.benchmark, self.ratios
        ours, theirs = (statistics.median(side) for side in zip(*self.pairs, strict=True))
        return [
            f"`{bench.name}`: {bench.what}",
            bench.against,
            f"{ours:,.4g} {bench.unit}",
            f"{theirs:,.4g} {bench.unit}",
            f"**{self.ratio:.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{bench.at_least:g}",
        ]
