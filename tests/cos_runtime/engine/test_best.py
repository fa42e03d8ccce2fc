"""Which validation passes count as better, and when it is enough."""

import math

import pytest

from cos_runtime.engine.best import Aim, Best


@pytest.mark.parametrize(
    ("is_lower_better", "expected"), [(False, [True, False, False, True]), (True, [True, False, True, False])]
)
def test_better_is_higher_or_lower(is_lower_better: bool, expected: list[bool]):
    best = Best(Aim("score", is_lower_better))
    assert [best.take({"score": [value]}) for value in (0.5, 0.5, 0.4, 0.6)] == expected


def test_a_value_that_is_no_number_is_never_better():
    best = Best(Aim("loss", is_lower_better=True))
    assert [best.take({"loss": [value]}) for value in (math.nan, 2.0, math.nan)] == [False, True, False]


def test_patience_counts_passes_since_the_best_one_those_of_an_earlier_run_too():
    best = Best(Aim("loss", is_lower_better=True, patience=2), value=1.0, stale=1)
    assert not best.is_enough
    best.take({"loss": [0.9]})
    assert not best.is_enough
    for _ in range(2):
        assert not best.is_enough
        best.take({"loss": [0.9]})
    assert best.is_enough


def test_without_an_aim_nothing_counts():
    best = Best(Aim())
    assert not best.take({"loss": [1.0]})
    assert not best.is_enough
