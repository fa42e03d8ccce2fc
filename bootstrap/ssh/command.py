"""A command as the way to a node's sshd, by its stdin and stdout: `aws ssm start-session`."""

import contextlib
import os
import select
import shlex
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, cast

import paramiko

_END_SECONDS = 1.0


class Command(paramiko.ProxyCommand):
    """paramiko's own asks a command that has ended for more, without a pause, and keeps what it said to itself.

    Args:
        words: The command.

    Attributes:
        last_words: the last line of its stderr, where it ended by itself.

    Raises:
        OSError: It cannot be run.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(shlex.join(words))
        self.last_words = ""
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self._input, self._output, self._errors = (cast("IO[bytes]", pipe) for pipe in pipes)
        self._heard = ""
        # A pipe that nobody reads holds a command up once it is full.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def closed(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self.process.poll() is not None

    def send(self, content: bytes) -> int:  # type: ignore[override]  # paramiko sends no other buffers
        """Give it bytes."""
        try:
            return super().send(content)
        except paramiko.ProxyCommandFailure:
            self._see_out()
            raise

    def recv(self, size: int) -> bytes:
        """What it says, up to the size; nothing once it has ended.

        Raises:
            TimeoutError: It says nothing for as long as was set.
        """
        ready, _, _ = select.select([self._output], [], [], self.timeout)
        if not ready:
            raise TimeoutError
        piece = os.read(self._output.fileno(), size)
        if not piece:
            self._see_out()
        return piece

    def close(self) -> None:
        """End it."""
        self._input.close()
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join(_END_SECONDS)
        self._output.close()

    def _see_out(self) -> None:
        """Wait for its end, which has begun, and hear its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        self._listener.join(_END_SECONDS)
        self.last_words = self._heard

    def _listen(self) -> None:
        with self._errors:
            for line in self._errors:
                self._heard = line.decode(errors="replace").strip() or self._heard
