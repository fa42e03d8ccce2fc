"""Text that grows by lines: in a local file, at a URL, on a stream."""

from pathlib import Path
from typing import IO, Protocol

from cos_runtime import storage
from cos_runtime.errors import UserError


class Lines(Protocol):
    """Somewhere to append lines to."""

    def write(self, line: str) -> None:
        """Append one line, given without its end."""

    def publish(self) -> None:
        """Let others see all lines written so far, where they do not anyway."""

    def close(self) -> None:
        """Publish, and write no more."""


class LocalLines:
    """Appends to a local file; each line is there whole as soon as it is written."""

    def __init__(self, path: str) -> None:
        target = Path(storage.local_path(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _drop_cut_line(target)
            # Unbuffered: one write a line, so that a crash leaves whole lines behind.
            self._stream = target.open("ab", buffering=0)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror or error}): "
                "give a model path in a folder that this user may write to"
            ) from None

    def write(self, line: str) -> None:
        """Append one line."""
        self._stream.write(f"{line}\n".encode())

    def publish(self) -> None:
        """Nothing to do: a file shows its lines at once."""

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class RemoteLines:
    """Rewrites a file at a URL whenever published, since object stores cannot append.

    What a crash loses is what came after the last snapshot, and a resumed run repeats just that.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._content = bytearray(storage.read_bytes(path) if storage.exists(path) else b"")
        if self._content and not self._content.endswith(b"\n"):
            self._content += b"\n"
        self._published = len(self._content)

    def write(self, line: str) -> None:
        """Keep one line for the next :meth:`publish`."""
        self._content += f"{line}\n".encode()

    def publish(self) -> None:
        """Write the file anew, if lines were added."""
        if len(self._content) > self._published:
            storage.write_bytes(self._path, bytes(self._content))
            self._published = len(self._content)

    def close(self) -> None:
        """Publish the last lines."""
        self.publish()


class StreamLines:
    """Writes to a stream that belongs to somebody else, such as standard error."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write one line and flush."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def publish(self) -> None:
        """Nothing to do: every line is flushed."""

    def close(self) -> None:
        """Nothing to do: the stream is not ours."""


def open_lines(path: str) -> Lines:
    """The lines of a file, by path or URL; they are appended to those it has.

    Raises:
        UserError: a local file cannot be written.
    """
    return RemoteLines(path) if storage.is_remote(path) else LocalLines(path)


def _drop_cut_line(path: Path) -> None:
    """Take away a last line without its end: a full disk or a crash cut it off, and readers would stumble over it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("rb+") as stream:
            stream.truncate(whole)
