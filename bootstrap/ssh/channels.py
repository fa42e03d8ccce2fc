"""Commands over a connection's channels, with a time limit each."""

import threading
import time
from collections.abc import Iterator

import paramiko

from bootstrap.errors import LaunchError
from bootstrap.host import Finished
from bootstrap.ssh.connection import BROKEN, Connection, close

_PIECE = 65536
# All that has come: what paramiko leaves of its buffer it copies to the front, each time.
_STREAM_PIECE = 16 * 1024 * 1024


def run(connection: Connection, command: str, given: bytes, seconds: float) -> Finished:
    """Run a shell command line and wait for it.

    Args:
        connection: The node's.
        command: The line.
        given: Its stdin.
        seconds: The limit, from the start of the command.

    Raises:
        LaunchError: The limit is over; the command's channel is closed.
        ConnectionLostError: The connection broke meanwhile.
    """
    channel = connection.channel()
    deadline = time.monotonic() + seconds
    errors: list[bytes] = []
    try:
        channel.exec_command(command)
        helpers = [
            threading.Thread(target=_give, args=(channel, given), daemon=True),
            threading.Thread(target=_drain_errors, args=(channel, errors), daemon=True),
        ]
        for helper in helpers:
            helper.start()
        output = b"".join(_received(channel, deadline))
        for helper in helpers:
            helper.join(max(0.0, deadline - time.monotonic()))
        code = _exit_code(channel, deadline)
    except TimeoutError:
        name, short = connection.address.name, command if len(command) <= 80 else f"{command[:77]}..."
        raise LaunchError(f"`{short}` on {name} did not end within the command limit of {seconds:g} s.") from None
    except BROKEN as error:
        raise connection.lost(error) from error
    finally:
        close(channel)
    if code < 0:  # the channel was closed without one: the connection broke, or a signal ended the command
        raise connection.lost(EOFError("no exit code came"))
    return Finished(code, output, b"".join(errors))


def stream(connection: Connection, command: str) -> Iterator[bytes]:
    """What a shell command line writes, as it comes; a pause as long as the command limit ends it.

    Raises:
        ConnectionLostError: The connection broke, or the command failed, before all was there.
    """
    channel = connection.channel()
    channel.settimeout(connection.address.limits.command)
    try:
        channel.exec_command(command)
        while piece := channel.recv(_STREAM_PIECE):
            yield piece
        code = channel.recv_exit_status()
    except BROKEN as error:
        raise connection.lost(error) from error
    finally:
        close(channel)
    if code:
        raise connection.lost(EOFError(f"`{command}` ended with exit code {code}"))


def lines(channel: paramiko.Channel) -> Iterator[bytes]:
    """What comes over a channel, line by line, until its end."""
    rest = b""
    while piece := channel.recv(_PIECE):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _received(channel: paramiko.Channel, deadline: float) -> Iterator[bytes]:
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        piece = channel.recv(_PIECE)
        if not piece:
            return
        yield piece


def _exit_code(channel: paramiko.Channel, deadline: float) -> int:
    if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    return channel.recv_exit_status()


def _give(channel: paramiko.Channel, given: bytes) -> None:
    try:
        channel.sendall(given)
        channel.shutdown_write()
    except BROKEN:  # it reads no more: its exit code says why
        return


def _drain_errors(channel: paramiko.Channel, errors: list[bytes]) -> None:
    # A stderr that nobody reads fills the window, and the command waits forever.
    try:
        while piece := channel.recv_stderr(_PIECE):
            errors.append(piece)
    except BROKEN:
        return
