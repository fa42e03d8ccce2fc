"""The line between the driver and its ranks."""

import logging
import multiprocessing
import os
import resource
import socket
import threading

import pytest

from cos_runtime.engine import line as line_module
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


def test_facts_may_be_long(board):
    values = [0.1234567] * 500_000
    with Line.call(board.address, 5) as rank:
        rank.send("step", values=values)
        assert next_message(board)[1] == Message("step", {"values": values})


def test_facts_that_are_too_long_are_named_and_the_line_stays(board, monkeypatch):
    monkeypatch.setattr(line_module, "_MAX_HEADER", 1000)
    with Line.call(board.address, 5) as rank:
        with pytest.raises(UserError, match=r'message "step" of 1,05\d bytes is above the limit of 1,000.*Silence'):
            rank.send("step", text="x" * 1000)
        rank.send("failed")
        assert next_message(board)[1] == Message("failed")


def test_a_driver_that_takes_no_calls_is_named_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimeoutError, match=rf"127.0.0.1:{port} takes no calls .nothing was said for 0.2 s"):
            Line.call(LineAddress("127.0.0.1", port, b""), 0.2)


def test_the_limit_of_a_call_is_none_of_what_follows(board):
    with Line.call(board.address, 5) as rank:
        rank.send("hello")
        for each in (rank, next_message(board)[0]):
            with line_module._socket_of(each._connection) as plug:
                for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    assert plug.getsockopt(socket.SOL_SOCKET, limit, 16) == bytes(16)


def test_a_line_that_ends_leaves_no_descriptor(board):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with Line.call(board.address, 5):
            pass
        line, message = next_message(board)
        assert message is None
        with pytest.raises(OSError, match="closed"):
            line.send("kept")
    assert len(os.listdir("/proc/self/fd")) < before + 10
    assert not board._lines


def call_where_no_descriptor_is_free():
    refused = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda _: refused.set()
    line_module.logger.addHandler(handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with Switchboard("127.0.0.1", "127.0.0.1") as board, socket.socket() as early:
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            early.connect((board.address.host, board.address.port))
        assert refused.wait(20)
        for each in taken:
            os.close(each)
        with Line.call(board.address, 20) as rank:
            rank.send("hello")
            assert next(board.messages(20))[1] == Message("hello")


def test_calls_are_taken_again_once_a_descriptor_is_free():
    driver = multiprocessing.get_context("spawn").Process(target=call_where_no_descriptor_is_free)
    driver.start()
    driver.join(60)
    driver.kill()
    assert driver.exitcode == 0


def test_a_closed_switchboard_leaves_no_port_and_no_line():
    with Switchboard("127.0.0.1", "127.0.0.1") as board:
        rank = Line.call(board.address, 5)
        rank.send("hello")
        line, _ = next_message(board)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((board.address.host, board.address.port))
    assert not board._thread.is_alive()
    assert next_message(board) == (line, None)
    with rank, pytest.raises(EOFError):
        rank.receive(5)


def test_whoever_does_not_read_holds_up_no_post_and_no_close(board):
    with Line.call(board.address, 5) as rank:
        rank.send("hello")
        line, _ = next_message(board)
        for _ in range(2):
            line.post("go", bytes(32 << 20))
        line.close()
    line.post("checkpoint")


def test_posts_come_in_their_order(board):
    with Line.call(board.address, 5) as rank:
        rank.send("hello")
        line, _ = next_message(board)
        for number in range(10):
            line.post("mean", bytes(number << 16), number=number)
        assert [rank.receive(5).facts["number"] for _ in range(10)] == list(range(10))
