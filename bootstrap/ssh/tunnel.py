"""Ports of this machine that lead to ports of a cluster."""

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paramiko

from bootstrap.errors import LaunchError
from bootstrap.host import ConnectionLostError
from bootstrap.ssh.connection import BROKEN, Connection

_LOOPBACK = "127.0.0.1"
_PIECE = 65536


@contextmanager
def tunnel(connection: Connection, host: str, port: int, local_port: int = 0) -> Iterator[int]:
    """Open a port on the loopback that leads to a port as the node sees it, inside the `with` block.

    Args:
        connection: The node's.
        host: Where to go from the node: its own ``127.0.0.1``, or another node's private address.
        port: The port there.
        local_port: The port here; 0 takes a free one.

    Yields:
        The port here.

    Raises:
        LaunchError: The port here is in use.
    """
    connection.transport()  # a node that does not answer is told of now, not to a browser later
    try:
        server = _Server((_LOOPBACK, local_port), _Handler)
    except OSError as error:
        raise LaunchError(
            f"Port {local_port} of this machine cannot be opened ({error.strerror}): "
            "name another one, or none for any that is free."
        ) from None
    server.open_channel = lambda: connection.tunnel(host, port)
    thread = threading.Thread(target=server.serve_forever, name=f"tunnel-{port}", args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # a page that keeps its connection open must not keep the launcher
    open_channel: Any


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Carry bytes both ways until either side is done."""
        try:
            channel = self.server.open_channel()
        except ConnectionLostError:  # nobody listens there: as a refused connection shows itself
            return
        with contextlib.suppress(*BROKEN), contextlib.closing(channel):
            _carry(self.request, channel)


def _carry(here: socket.socket, there: paramiko.Channel) -> None:
    open_ends: dict[Any, Any] = {here: there, there: here}
    while open_ends:
        ready, _, _ = select.select(list(open_ends), [], [])
        for end in ready:
            piece = end.recv(_PIECE)
            if piece:
                open_ends[end].sendall(piece)
                continue
            # Half closed: the other direction may still have an answer to carry.
            open_ends.pop(end).shutdown(socket.SHUT_WR)
