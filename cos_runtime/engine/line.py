"""The line between the driver and its ranks: what they report, and the one answer they get at the start.

Python's own ``multiprocessing.connection`` carries it, authenticated by a key that reaches the ranks inside
Spark's task, with JSON and raw bytes as content and no pickle. A rank that dies without a word shows as a closed line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from types import TracebackType
from typing import Any, Self

from cos_runtime.errors import UserError

logger = logging.getLogger(__name__)

# Kind and facts of one message, in bytes. Ten million output values are less.
_MAX_HEADER = 1 << 28

# Longest wait for a caller's share of the handshake, for the next free descriptor, and for a thread's end, in seconds.
_HANDSHAKE_LIMIT = 30.0
_ACCEPT_AGAIN = 0.2
_END_LIMIT = 5.0


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
    """One end of an open line. It may be sent over, and closed, from any thread; one thread at a time receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending, self._closing = threading.Lock(), threading.Lock()
        self._post = ThreadPoolExecutor(1, "cos-post")

    @classmethod
    def call(cls, address: LineAddress, timeout: float) -> Self:
        """Open a rank's end.

        Raises:
            UserError: the driver cannot be reached within ``timeout`` seconds.
            TimeoutError: it is reached, and does not answer within ``timeout`` seconds.
        """
        try:
            plug = socket.create_connection((address.host, address.port), timeout=timeout)
        except OSError as error:
            raise UserError(
                f"the driver cannot be reached at {address.host}:{address.port} from {socket.gethostname()} ({error}): "
                "set spark.driver.host to an address of the driver that the executors reach, and let them in"
            ) from None
        try:
            return cls(_shake_hands(plug, address.key, timeout, answer_challenge, deliver_challenge))
        except TimeoutError as error:
            raise TimeoutError(
                f"the driver at {address.host}:{address.port} takes no calls ({error}): see its log"
            ) from None

    @property
    def local_ip(self) -> str:
        """The address of this host on the way to the other end."""
        with _socket_of(self._connection) as plug:
            return str(plug.getsockname()[0])

    def send(self, kind: str, *blobs: bytes, **facts: Any) -> None:
        """Send one message; this waits as long as the other end does not read.

        Raises:
            UserError: the facts are too long.
            OSError: the line is closed.
        """
        header = json.dumps({"kind": kind, "facts": facts, "blobs": len(blobs)}).encode()
        if len(header) > _MAX_HEADER:
            raise UserError(
                f'a message "{kind}" of {len(header):,} bytes is above the limit of {_MAX_HEADER:,}: '
                "give outputs that nobody needs to a Silence layer"
            )
        with self._sending:
            self._connection.send_bytes(header)
            for blob in blobs:
                self._connection.send_bytes(blob)

    def post(self, kind: str, *blobs: bytes, **facts: Any) -> None:
        """Send one message, after those posted before, on a thread of the line's own.

        One that cannot be sent is dropped without a word: whoever receives learns that the line has closed.
        """
        with contextlib.suppress(RuntimeError):  # closed
            self._post.submit(self.send, kind, *blobs, **facts)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: none began within ``timeout`` seconds.
            EOFError: the other end is gone.
        """
        if not self._connection.poll(timeout):
            raise TimeoutError(f"no message within {timeout} s")
        header = json.loads(self._connection.recv_bytes())
        blobs = tuple(self._connection.recv_bytes() for _ in range(header["blobs"]))
        return Message(header["kind"], header["facts"], blobs)

    def hang_up(self) -> None:
        """End whatever either side sends or waits for; this end's descriptor stays until :meth:`close`."""
        # An OSError: it is closed already, by us or by the other side.
        with self._closing, contextlib.suppress(OSError), _socket_of(self._connection) as plug:
            plug.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._post.shutdown(wait=False, cancel_futures=True)
        self.hang_up()
        # Not under a thread that is sending: the number of the descriptor may soon be another's.
        with self._sending, self._closing:
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
        self._lines: set[Line] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="cos-switchboard", daemon=True)
        self._thread.start()

    def messages(self, timeout: float) -> Iterator[tuple[Line, Message | None]]:
        """Messages with the line they came over; None for a line that closed. Ends after ``timeout`` idle seconds."""
        while True:
            try:
                yield self._incoming.get(timeout=timeout)
            except queue.Empty:
                return

    def close(self) -> None:
        """Hang up on everybody."""
        self._closed.set()
        # A close alone wakes no thread that accepts, and the port stays open under it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(_END_LIMIT)
        self._listener.close()
        for line in list(self._lines):
            line.hang_up()  # and its own thread closes it

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
            except OSError as error:
                if self._closed.is_set():
                    return
                logger.warning("a call cannot be taken yet: %s", error)
                self._closed.wait(_ACCEPT_AGAIN)
                continue
            # A caller of its own thread: a stranger who says nothing must not hold up the ranks.
            threading.Thread(target=self._listen, args=(plug, peer), name=f"cos-line-{peer}", daemon=True).start()

    def _listen(self, plug: socket.socket, peer: tuple[str, int]) -> None:
        try:
            line = Line(_shake_hands(plug, self.address.key, _HANDSHAKE_LIMIT, deliver_challenge, answer_challenge))
        except Exception as error:  # noqa: BLE001 - whatever a stranger sends
            logger.warning("refused a connection from %s: %s", peer[0], error or type(error).__name__)
            return
        self._lines.add(line)
        if self._closed.is_set():
            line.hang_up()
        try:
            while True:
                self._incoming.put((line, line.receive()))
        except (EOFError, OSError):
            self._lines.discard(line)
            line.close()
            self._incoming.put((line, None))


def _shake_hands(
    plug: socket.socket, key: bytes, timeout: float, *challenges: Callable[[Connection, bytes], None]
) -> Connection:
    """The connection over a socket, once the challenges are met.

    Raises:
        TimeoutError: the other end said nothing for ``timeout`` seconds.
    """
    plug.settimeout(None)  # Connection reads and writes the descriptor itself, which must block
    _limit(plug, timeout)
    connection = Connection(plug.detach())
    try:
        for challenge in challenges:
            challenge(connection, key)
        with _socket_of(connection) as met:
            _limit(met, 0)
    except BlockingIOError:
        connection.close()
        raise TimeoutError(f"nothing was said for {timeout:g} s") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _limit(plug: socket.socket, seconds: float) -> None:
    """Have each read and write of a blocking socket fail with BlockingIOError after so long; 0 lifts the limit."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        plug.setsockopt(socket.SOL_SOCKET, option, value)


@contextlib.contextmanager
def _socket_of(connection: Connection) -> Iterator[socket.socket]:
    """The socket under a connection, which goes on owning it."""
    plug = socket.socket(fileno=connection.fileno())
    try:
        yield plug
    finally:
        plug.detach()
