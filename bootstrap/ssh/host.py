"""A cluster's node as a host."""

import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import paramiko

from bootstrap.host import Files, Finished, Process
from bootstrap.ssh import channels
from bootstrap.ssh.connection import BROKEN, Connection, close
from bootstrap.ssh.files import SshFiles
from bootstrap.ssh.tunnel import tunnel


class SshHost:
    """A node, over its one connection; see `bootstrap.host.Host`.

    Args:
        connection: The node's.
        python: The command of the Python that has this package there.
    """

    def __init__(self, connection: Connection, python: Sequence[str] = ("python3",)) -> None:
        self.name = connection.address.name
        self.python = python
        self.files: Files = SshFiles(connection)
        self._connection = connection

    def run(self, command: Sequence[str], *, given: bytes = b"", seconds: float | None = None) -> Finished:
        """Run a command and wait for it."""
        limit = self._connection.address.limits.command if seconds is None else seconds
        return channels.run(self._connection, shlex.join(command), given, limit)

    @contextmanager
    def start(self, command: Sequence[str]) -> Iterator[Process]:
        """Start a program that ends with the block, this process or the connection."""
        # Its stdin is our channel: the supervisor ends it when that closes, however it closes.
        supervised = [*self.python, "-m", "bootstrap.supervisor", "--", *command]
        channel = self._connection.channel()
        channel.set_combine_stderr(True)
        try:
            channel.exec_command(shlex.join(supervised))
        except BROKEN as error:
            raise self._connection.lost(error) from error
        process = _RemoteProcess(channel)
        try:
            yield process
        finally:
            process.close()

    def forward(self, host: str, port: int, local_port: int = 0) -> AbstractContextManager[int]:
        """A port here that leads to a port there."""
        return tunnel(self._connection, host, port, local_port)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _RemoteProcess:
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def lines(self) -> Iterator[bytes]:
        """Its output, line by line."""
        return channels.lines(self._channel)

    def close(self) -> None:
        """End it."""
        with self._lock:
            close(self._channel)
