"""Snapshots on their way to the driver: what may fail without an end of training, and what may not."""

import re
import threading
from collections.abc import Iterator

import pytest

from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.engine.keeper import Capture, Keeper
from cos_runtime.engine.line import LineAddress, Switchboard
from cos_runtime.engine.snapshots import CHECKPOINT, FINAL
from cos_runtime.errors import UserError


@pytest.fixture
def board() -> Iterator[Switchboard]:
    with Switchboard("127.0.0.1", "127.0.0.1") as board:
        yield board


def capture(purpose: str, iteration: int = 1) -> Capture:
    return Capture(purpose, NetParameter(), {}, SolverState(iteration, 0, []), SolverParameter.BINARYPROTO)


def hang_up_on_first(board: Switchboard) -> None:
    for line, message in board.messages(10):
        if message:
            line.hang_up()
            return


def test_a_checkpoint_that_the_driver_says_nothing_of_is_a_warning(board: Switchboard, caplog) -> None:
    keeper = Keeper(board.address, 0, 2)
    keeper.keep(capture(CHECKPOINT))
    keeper.wait()
    # On a loaded machine the handshake may take as long.
    assert re.search("a checkpoint was not kept: (no message within 2 s|the driver .* takes no calls)", caplog.text)
    keeper.keep(capture(FINAL))
    with pytest.raises(TimeoutError):
        keeper.wait()


def test_a_checkpoint_of_which_the_line_ends_is_a_warning(board: Switchboard, caplog) -> None:
    threading.Thread(target=hang_up_on_first, args=[board]).start()
    keeper = Keeper(board.address, 0, 10)
    keeper.keep(capture(CHECKPOINT))
    keeper.wait()
    assert "a checkpoint was not kept: the driver has hung up" in caplog.text


def test_a_checkpoint_that_reaches_no_driver_is_a_warning(caplog) -> None:
    keeper = Keeper(LineAddress("127.0.0.1", 1, b""), 0, 10)
    keeper.keep(capture(CHECKPOINT))
    keeper.wait()
    assert "a checkpoint was not kept: the driver cannot be reached at 127.0.0.1:1" in caplog.text
    keeper.keep(capture(FINAL))
    with pytest.raises(UserError, match="cannot be reached"):
        keeper.wait()


def test_a_driver_that_still_writes_is_waited_for(board: Switchboard) -> None:
    keeper = Keeper(board.address, 0, 10)
    keeper.keep(capture(FINAL))
    line, message = next(board.messages(10))
    assert message.facts == {"iteration": 1, "purpose": FINAL}
    for kind in ("writing", "writing", "kept"):
        line.post(kind)
    keeper.wait()


def test_a_checkpoint_is_left_out_while_the_one_before_is_written(board: Switchboard, caplog) -> None:
    keeper = Keeper(board.address, 0, 2)
    keeper.keep(capture(CHECKPOINT))
    line, _ = next(board.messages(10))
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.1):
            line.post("writing")

    writer = threading.Thread(target=write)
    writer.start()
    keeper.keep(capture(CHECKPOINT, 2))
    ended.set()
    writer.join()
    line.post("kept")
    keeper.wait()
    assert "no checkpoint at iteration 2" in caplog.text
