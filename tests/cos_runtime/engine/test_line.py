"""The line between the driver and its ranks."""

import socket
import threading

import pytest

from cos_runtime.engine.line import Line, LineAddress, Message, Switchboard
from cos_runtime.errors import UserError


@pytest.fixture
def board():
    with Switchboard("127.0.0.1", "127.0.0.1") as board:
        yield board


def next_message(board: Switchboard) -> tuple[Line, Message | None]:
    return next(board.messages(5))


def test_a_rank_reports_and_is_answered(board):
    with Line.call(board.address, 5) as rank:
        rank.send("hello", b"\x00weights", b"", rank=3, loss=float("inf"))
        line, message = next_message(board)
        assert message == Message("hello", {"rank": 3, "loss": float("inf")}, (b"\x00weights", b""))
        line.send("go", store=["host", 1])
        assert rank.receive(5) == Message("go", {"store": ["host", 1]})
        assert rank.local_ip == "127.0.0.1"


def test_a_large_snapshot_passes_whole(board):
    content = bytes(range(256)) * (40 << 12)
    with Line.call(board.address, 5) as rank:
        sender = threading.Thread(target=rank.send, args=("snapshot", content))
        sender.start()
        assert next_message(board)[1].blobs == (content,)
        sender.join(5)


def test_a_rank_that_dies_without_a_word_closes_its_line(board):
    rank = Line.call(board.address, 5)
    rank.send("hello")
    line, _ = next_message(board)
    rank.close()
    assert next_message(board) == (line, None)


def test_a_wrong_key_is_refused(board, caplog):
    address = LineAddress(board.address.host, board.address.port, b"guess")
    with pytest.raises(Exception, match="digest|reset|closed") as refusal:
        Line.call(address, 5)
    assert refusal.type.__name__ in {"AuthenticationError", "ConnectionResetError", "EOFError"}
    assert list(board.messages(0.2)) == []


def test_a_stranger_who_says_nothing_holds_up_nobody(board):
    with socket.create_connection((board.address.host, board.address.port)), Line.call(board.address, 5) as rank:
        rank.send("hello")
        assert next_message(board)[1].kind == "hello"


def test_the_key_is_in_no_text(board):
    assert board.address.key.hex() not in repr(board.address)
    assert "key" not in repr(board.address)


def test_an_unreachable_driver_is_named():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=rf"driver cannot be reached at 127.0.0.1:{port}.*spark.driver.host"):
        Line.call(LineAddress("127.0.0.1", port, b""), 5)


def test_no_answer_is_a_timeout(board):
    with Line.call(board.address, 5) as rank, pytest.raises(TimeoutError, match=r"0\.1 s"):
        rank.receive(0.1)
