"""A benchmark: two ways to the same end, measured beside each other several times."""

from collections.abc import Callable
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
