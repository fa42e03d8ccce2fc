"""The watch over the ranks: silence, standing still and a start that does not come are told apart and named."""

import pytest

from cos_runtime.engine.watch import Watch

AT_WORK, IN_EXCHANGE = "my_layer.py:33 forward", "graph.py:865 _engine_run_backward"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    """Two ranks that have just started, a limit of 10 s."""
    watch = Watch(2, 10, clock)
    for rank in range(2):
        watch.heard(rank, f"host{rank}", 0)
    return watch


def test_ranks_that_go_on_are_left_alone(watch: Watch, clock: Clock):
    for steps in range(100):
        clock.now += 1
        for rank in range(2):
            watch.heard(rank, f"host{rank}", steps, AT_WORK)
        assert watch.overdue() is None


def test_a_silent_rank_is_named_at_the_limit(watch: Watch, clock: Clock):
    for second in range(10):
        clock.now += 1
        watch.heard(0, "host0", 1, IN_EXCHANGE)
        assert watch.overdue() is None, second
    clock.now += 0.1
    assert watch.overdue().startswith("rank 1 on host1 said nothing for 10 s")


def test_of_ranks_that_stand_still_the_one_that_does_not_wait_is_named(watch: Watch, clock: Clock):
    for _ in range(12):
        clock.now += 1
        watch.heard(0, "host0", 1, IN_EXCHANGE)
        watch.heard(1, "host1", 1, AT_WORK)
    assert watch.overdue().startswith(f"rank 1 on host1 stood still for 10 s, at {AT_WORK}")


def test_one_that_goes_on_slowly_is_no_standstill(watch: Watch, clock: Clock):
    for step in range(5):
        for _ in range(9):
            clock.now += 1
            watch.heard(0, "host0", 1, IN_EXCHANGE)
            watch.heard(1, "host1", step, AT_WORK)
            assert watch.overdue() is None


def test_a_rank_that_does_not_start_is_named(clock: Clock):
    watch = Watch(3, 10, clock)
    clock.now += 1000  # before the first one is there, Spark is still at work
    assert watch.overdue() is None
    watch.heard(1, "host1")
    clock.now += 11
    assert watch.overdue().startswith("rank 0, 2 did not start within 10 s of the first one")


def test_a_rank_that_is_done_is_not_expected(watch: Watch, clock: Clock):
    watch.ended(0)
    clock.now += 9
    watch.heard(1, "host1", 1)
    clock.now += 9
    assert watch.overdue() is None
    watch.ended(1)
    clock.now += 100
    assert watch.overdue() is None


def test_ranks_that_the_driver_keeps_waiting_do_not_stand_still_and_may_not_be_silent(watch: Watch, clock: Clock):
    for _ in range(20):
        clock.now += 1
        watch.heard(0, "host0", 1, AT_WORK)
        watch.heard(1, "host1", 1, IN_EXCHANGE)
        watch.keep_waiting()
        assert watch.overdue() is None
    for _ in range(11):
        clock.now += 1
        watch.heard(0, "host0", 1, AT_WORK)
        watch.keep_waiting()
    assert watch.overdue().startswith("rank 1 on host1 said nothing for 10 s")


def test_what_the_driver_could_not_hear_does_not_count(watch: Watch, clock: Clock):
    clock.now += 9
    clock.now += 100
    watch.pass_over(100)
    assert watch.overdue() is None
    clock.now += 2
    assert watch.overdue().startswith("rank 0 on host0, rank 1 on host1 said nothing for 10 s")
