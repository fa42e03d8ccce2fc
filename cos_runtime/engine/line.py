"""The line between the driver and its ranks: what they report, and the one answer they get at the start.

Python's own ``multiprocessing.connection`` carries it, authenticated by a key that reaches the ranks inside
Spark's task, with JSON and raw bytes as content and no pickle. A rank that dies without a word shows as a closed line.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from types import TracebackType
from typing import Any, Self

from cos_runtime.errors import UserError

logger = logging.getLogger(__name__)

_MAX_HEADER = 1 << 20


@dataclass(frozen=True)
class Message:
    """One word over the line: a kind, facts that JSON can hold, and raw bytes."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LineAddress:
    """Where the driver listens, and the key that opens it."""

    host: str
    port: int
    key: bytes = field(repr=False)


NOWHERE = LineAddress("", 0, b"")


class Line:
    """One end of an open line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    @classmethod
    def call(cls, address: LineAddress, timeout: float) -> Self:
        """Open a rank's end.

        Raises:
            UserError: the driver cannot be reached within ``timeout`` seconds.
        """
        try:
            plug = socket.create_connection((address.host, address.port), timeout=timeout)
        except OSError as error:
            raise UserError(
                f"the driver cannot be reached at {address.host}:{address.port} from {socket.gethostname()} ({error}): "
                "set spark.driver.host to an address of the driver that the executors reach, and let them in"
            ) from None
        plug.settimeout(None)
        connection = Connection(plug.detach())
        answer_challenge(connection, address.key)
        deliver_challenge(connection, address.key)
        return cls(connection)

    @property
    def local_ip(self) -> str:
        """The address of this host on the way to the other end."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as plug:
            return str(plug.getsockname()[0])

    def send(self, kind: str, *blobs: bytes, **facts: Any) -> None:
        """Send one message."""
        header = json.dumps({"kind": kind, "facts": facts, "blobs": len(blobs)}).encode()
        with self._sending:
            self._connection.send_bytes(header)
            for blob in blobs:
                self._connection.send_bytes(blob)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: none began within ``timeout`` seconds.
            EOFError: the other end is gone.
        """
        if not self._connection.poll(timeout):
            raise TimeoutError(f"no message within {timeout} s")
        header = json.loads(self._connection.recv_bytes(_MAX_HEADER))
        blobs = tuple(self._connection.recv_bytes() for _ in range(header["blobs"]))
        return Message(header["kind"], header["facts"], blobs)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Switchboard:
    """The driver's end: takes the calls of all ranks and hands out their messages in order of arrival.

    Args:
        host: an address of the driver that the executors reach.
        bind: the driver's own address to listen at.
    """

    def __init__(self, host: str, bind: str) -> None:
        self._listener = socket.create_server((bind, 0), backlog=1024)
        self.address = LineAddress(host, self._listener.getsockname()[1], secrets.token_bytes(32))
        self._incoming: queue.SimpleQueue[tuple[Line, Message | None]] = queue.SimpleQueue()
        self._lines: list[Line] = []
        threading.Thread(target=self._accept, name="cos-switchboard", daemon=True).start()

    def messages(self, timeout: float) -> Iterator[tuple[Line, Message | None]]:
        """Messages with the line they came over; None for a line that closed. Ends after ``timeout`` idle seconds."""
        while True:
            try:
                yield self._incoming.get(timeout=timeout)
            except queue.Empty:
                return

    def close(self) -> None:
        """Hang up on everybody."""
        self._listener.close()
        for line in self._lines:
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                plug, peer = self._listener.accept()
            except OSError:
                return  # closed
            # A caller of its own thread: a stranger who says nothing must not hold up the ranks.
            threading.Thread(target=self._listen, args=(plug, peer), name=f"cos-line-{peer}", daemon=True).start()

    def _listen(self, plug: socket.socket, peer: tuple[str, int]) -> None:
        connection = Connection(plug.detach())
        try:
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
        except Exception as error:  # noqa: BLE001 - whatever a stranger sends
            logger.warning("refused a connection from %s: %s", peer[0], error or type(error).__name__)
            connection.close()
            return
        line = Line(connection)
        self._lines.append(line)
        try:
            while True:
                self._incoming.put((line, line.receive()))
        except (EOFError, OSError):
            self._incoming.put((line, None))
