"""This machine as a host: the jobs of `--cluster local` live here."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootstrap.errors import LaunchError
from bootstrap.host import Files, Finished, Process
from bootstrap.processes import Supervised
from bootstrap.python_path import environment

_COMMAND_SECONDS = 60.0
_PIECE = 1024 * 1024


class LocalFiles:
    """This machine's files; see `bootstrap.host.Files`."""

    def checksums(self, paths: Sequence[str]) -> Mapping[str, str]:
        """The SHA-256 of each of the files that is there."""
        return {path: _checksum(Path(path)) for path in paths if Path(path).is_file()}

    def tree(self, path: str) -> Mapping[str, int]:
        """The files below a folder, or the file itself."""
        root = Path(path)
        if root.is_file():
            return {"": root.stat().st_size}
        if not root.exists():
            raise FileNotFoundError(path)
        files = sorted(file for file in root.rglob("*") if file.is_file())
        return {file.relative_to(root).as_posix(): file.stat().st_size for file in files}

    def size(self, path: str) -> int | None:
        """A file's size; None where there is none."""
        try:
            return Path(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str, offset: int, limit: int | None = None) -> bytes:
        """Bytes from the offset on."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    def stream(self, path: str, offset: int) -> Iterator[bytes]:
        """The file from the offset on."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            while piece := file.read(_PIECE):
                yield piece

    def append(self, path: str, pieces: Iterable[bytes], offset: int) -> None:
        """Write the pieces at the offset."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()  # not cut short: another transfer may be writing the very same
            with Path(path).open("r+b") as file:
                file.seek(offset)
                for piece in pieces:
                    file.write(piece)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LaunchError(f"{path} cannot be written ({error.strerror}): name another place.") from None

    def replace(self, source: str, target: str) -> None:
        """Rename a file, over another one if need be."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(source).replace(target)

    def remove(self, path: str) -> None:
        """Remove a file, which may be missing."""
        Path(path).unlink(missing_ok=True)


class LocalHost:
    """This machine; see `bootstrap.host.Host`."""

    def __init__(self) -> None:
        self.name = "this machine"
        self.python: Sequence[str] = (sys.executable,)
        self.files: Files = LocalFiles()

    def run(self, command: Sequence[str], *, given: bytes = b"", seconds: float | None = None) -> Finished:
        """Run a command and wait for it."""
        limit = _COMMAND_SECONDS if seconds is None else seconds
        try:
            ended = subprocess.run(
                command, input=given, capture_output=True, timeout=limit, check=False, env=environment()
            )
        except subprocess.TimeoutExpired:
            raise LaunchError(f"`{command[0]}` did not end within the command limit of {limit:g} s.") from None
        except OSError as error:
            raise LaunchError(f"`{command[0]}` cannot be run ({error.strerror}): is it installed?") from None
        return Finished(ended.returncode, ended.stdout, ended.stderr)

    @contextmanager
    def start(self, command: Sequence[str]) -> Iterator[Process]:
        """Start a program that ends with the block or with this process."""
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as output:
            supervised = Supervised(command, environment=environment(), stdout=output, stderr=output)
        process = _LocalProcess(supervised, reader)
        try:
            yield process
        finally:
            process.close()

    @contextmanager
    def forward(self, host: str, port: int, local_port: int = 0) -> Iterator[int]:
        """The port itself: it is on this machine."""
        if local_port not in (0, port):
            raise LaunchError(f"The local cluster's pages are at their own port {port}: leave the other port out.")
        yield port

    def close(self) -> None:
        """Nothing to let go of."""


class _LocalProcess:
    def __init__(self, supervised: Supervised, reader: int) -> None:
        self._supervised = supervised
        self._output = os.fdopen(reader, "rb")

    def lines(self) -> Iterator[bytes]:
        """Its output, line by line."""
        return (line.rstrip(b"\n") for line in self._output)

    def close(self) -> None:
        """End it."""
        self._supervised.stop()
        self._output.close()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
