"""What a job needs of the machine it lives on, whether that is this one or a cluster's master."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bootstrap.errors import LaunchError


class ConnectionLostError(LaunchError):
    """The way to the host broke: what was asked may or may not have happened, and can be asked again."""

    exit_code = 3


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Attributes:
        code: its exit code.
        output: its stdout.
        errors: its stderr.
    """

    code: int
    output: bytes
    errors: bytes


class Files(Protocol):
    """A host's files, by absolute path. What is missing raises FileNotFoundError, as for `open`."""

    def checksums(self, paths: Sequence[str]) -> Mapping[str, str]:
        """The SHA-256 (hexadecimal) of each of the files that is there."""

    def tree(self, path: str) -> Mapping[str, int]:
        """The files below a folder by their relative path, with their sizes; of a file, itself under ``""``."""

    def size(self, path: str) -> int | None:
        """A file's size; None where there is none."""

    def read(self, path: str, offset: int, limit: int | None = None) -> bytes:
        """Up to `limit` bytes from the offset on; nothing beyond the file's end."""

    def stream(self, path: str, offset: int) -> Iterator[bytes]:
        """The file from the offset on, fast, in pieces."""

    def append(self, path: str, pieces: Iterable[bytes], offset: int) -> None:
        """Write the pieces at the offset of a file, which is made (with its folders) where it is missing.

        Others may write the same pieces to it meanwhile, and rename it.
        """

    def replace(self, source: str, target: str) -> None:
        """Rename a file, over another one if need be."""

    def remove(self, path: str) -> None:
        """Remove a file, which may be missing."""


class Process(Protocol):
    """A program that runs on a host until it ends or is closed."""

    def lines(self) -> Iterator[bytes]:
        """Its output line by line, stdout and stderr together, while it runs."""

    def close(self) -> None:
        """End it and all that it started."""


class Host(Protocol):
    """A machine on which commands run and files lie.

    Attributes:
        name: what people call it.
        python: the command of the Python that has this package there.
        files: its files.
    """

    name: str
    python: Sequence[str]
    files: Files

    def run(self, command: Sequence[str], *, given: bytes = b"", seconds: float | None = None) -> Finished:
        """Run a command with `given` as its stdin and wait for it.

        Raises:
            LaunchError: It took longer than the seconds.
            ConnectionLostError: The way to the host broke meanwhile.
        """

    def start(self, command: Sequence[str]) -> AbstractContextManager[Process]:
        """Start a program that ends with the `with` block, or with this process, or with the connection."""

    def forward(self, host: str, port: int, local_port: int = 0) -> AbstractContextManager[int]:
        """A port on this machine's loopback that leads to a port as the host sees it."""

    def close(self) -> None:
        """Let go of the host."""
