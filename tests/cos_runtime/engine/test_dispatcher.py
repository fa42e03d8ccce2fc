"""The driver's ear: it hears of failures and silence whatever else goes on."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine.dispatcher import Dispatcher
from cos_runtime.engine.job import Start, TrainJob
from cos_runtime.engine.line import Line, Message, Switchboard

Launch = Callable[..., tuple[Switchboard, Dispatcher]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts dispatchers, each with a switchboard."""
    started: list[tuple[Switchboard, Dispatcher, threading.Thread]] = []

    def launch(ranks: int, timeout: float, start: Start, on_message: Callable[[Message], None]):
        solver = SolverParameter(solver_mode=SolverParameter.CPU)
        job = cast("TrainJob", SimpleNamespace(ranks=ranks, timeout=timeout, solver=solver))
        board = Switchboard("127.0.0.1", "127.0.0.1")
        dispatcher = Dispatcher(board, job, start, on_message, lambda: None)
        thread = threading.Thread(target=dispatcher.run, daemon=True)
        thread.start()
        started.append((board, dispatcher, thread))
        return board, dispatcher

    yield launch
    for board, dispatcher, thread in started:
        dispatcher.end()
        thread.join(20)
        board.close()
        assert not thread.is_alive()


def hello(line: Line, rank: int) -> None:
    line.send("hello", rank=rank, host=f"host{rank}", gpus=0, store=None, time=time.time())


def test_a_silent_rank_is_named_though_others_never_pause(launch: Launch) -> None:
    board, dispatcher = launch(2, 3, Start(), lambda _: None)
    with Line.call(board.address, 5) as silent, Line.call(board.address, 5) as talker:
        hello(silent, 0)
        hello(talker, 1)
        steps, end = 0, time.monotonic() + 20
        while not dispatcher.decided.wait(0.005) and time.monotonic() < end:
            talker.send("beat", steps=steps, place="layer.py:1 forward")
            steps += 1
        assert dispatcher.decided.is_set()
        assert "rank 0 on host0" in str(dispatcher.failure())


def test_a_rank_that_does_not_read_the_weights_is_named(launch: Launch) -> None:
    board, dispatcher = launch(1, 0.5, Start((("model", bytes(32 << 20)),)), lambda _: None)
    with Line.call(board.address, 5) as stopped:
        hello(stopped, 0)
        assert dispatcher.decided.wait(20)
        assert str(dispatcher.failure()).startswith("rank 0 on host0 said nothing for 0.5 s")


def test_a_rank_that_does_not_read_the_mean_holds_up_nobody(launch: Launch) -> None:
    board, dispatcher = launch(2, 60, Start(), lambda _: None)
    weights = bytes(32 << 20)
    with Line.call(board.address, 5) as stopped, Line.call(board.address, 5) as other:
        stopped.send("weights", weights)
        other.send("weights", weights)
        assert other.receive(20).blobs == (weights,)
        other.send("failed", error="no more", type="E", trace="", is_users=False, is_consequence=False, is_lost=False)
        assert dispatcher.decided.wait(20)
        assert "no more" in str(dispatcher.failure())


def test_a_rank_hears_that_its_snapshot_is_still_being_written(launch: Launch) -> None:
    may_end = threading.Event()
    board, _ = launch(1, 0.4, Start(), lambda _: may_end.wait(20))
    with Line.call(board.address, 5) as keeper:
        keeper.send("snapshot", b"model", b"state", iteration=1, purpose="final")
        assert [keeper.receive(10).kind for _ in range(3)] == ["writing"] * 3
        may_end.set()
        last = keeper.receive(10)
        while last.kind == "writing":
            last = keeper.receive(10)
        assert last == Message("kept")


def test_ranks_that_wait_for_a_snapshot_do_not_stand_still(launch: Launch) -> None:
    may_end = threading.Event()
    board, dispatcher = launch(1, 1.0, Start(), lambda message: message.kind != "snapshot" or may_end.wait(20))
    with Line.call(board.address, 5) as rank, Line.call(board.address, 5) as keeper:
        hello(rank, 0)
        keeper.send("snapshot", b"model", b"state", iteration=1, purpose="final")
        for _ in range(30):
            rank.send("beat", steps=1, place="keeper.py:80 wait")
            dispatcher.decided.wait(0.05)
            assert "stood still" not in str(dispatcher.failure())
        may_end.set()
