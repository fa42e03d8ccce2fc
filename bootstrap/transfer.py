"""Files from one machine to another: resumed where they broke off, checked, and never there by half."""

import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from bootstrap.errors import LaunchError
from bootstrap.host import ConnectionLostError, Files

AGAIN_SECONDS = 120.0

_Result = TypeVar("_Result")

Told = Callable[[str, int], None]
"""Takes the name of a file and how many more of its bytes have come, those that need not come included."""


@dataclass(frozen=True)
class Copied:
    """What a transfer did.

    Attributes:
        files: those that were copied.
        skipped: those that were there already.
        bytes: the size of those that were copied.
    """

    files: int
    skipped: int
    bytes: int


def again(seconds: float = AGAIN_SECONDS) -> Retrying:
    """Asks again, ever more patiently, where the connection broke; the seconds after that its error is raised."""
    return Retrying(
        retry=retry_if_exception_type(ConnectionLostError),
        stop=_SinceItBroke(seconds),
        wait=wait_random_exponential(multiplier=0.2, max=5.0),
        reraise=True,
    )


class _SinceItBroke:
    """Counts from the end of the first attempt, which may have gone well for hours."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._broke: float | None = None

    def __call__(self, _: RetryCallState) -> bool:
        now = time.monotonic()
        self._broke = now if self._broke is None else self._broke
        return now - self._broke >= self._seconds


def copy(
    source: Files, target: Files, paths: Mapping[str, str], *, told: Told | None = None, seconds: float = AGAIN_SECONDS
) -> Copied:
    """Copy files, those that the target has already left out.

    A file is written beside its place and renamed once its checksum is right. What a broken connection left there is
    gone on with, now or by another call. Several calls may copy the same file to the same place at once.

    Args:
        source: Where the files are.
        target: Where they go.
        paths: Where each goes.
        told: Takes the progress.
        seconds: How long a lost connection is tried for, each time.

    Raises:
        FileNotFoundError: A file is not there.
        LaunchError: It keeps changing, or cannot be written.
        ConnectionLostError: The connection did not come back.
    """
    return _Transfer(source, target, told, seconds).copy(paths)


class _Transfer:
    """Copies from a source to a target."""

    def __init__(self, source: Files, target: Files, told: Told | None, seconds: float) -> None:
        self._source, self._target = source, target
        self._told = told
        self._seconds = seconds

    def copy(self, paths: Mapping[str, str]) -> Copied:
        """Copy the files that the target does not have."""
        checksums = self._again(self._source.checksums, list(paths))
        there = self._again(self._target.checksums, list(paths.values()))
        skipped = size = 0
        for path, place in paths.items():
            if path not in checksums:
                raise FileNotFoundError(path)
            report = _Report(path, self._told)
            if there.get(place) == checksums[path]:
                skipped += 1
                report.reached(self._again(self._source.size, path) or 0)
                continue
            self._copy_file(path, place, checksums[path], report)
            size += report.size
        return Copied(len(paths) - skipped, skipped, size)

    def _copy_file(self, path: str, place: str, checksum: str, report: "_Report") -> None:
        beside = posixpath.join(posixpath.dirname(place), f".{posixpath.basename(place)}.{checksum[:16]}.part")
        try:
            # Once more from the start, in case that what lay there from another time is not the file's beginning.
            for _ in range(2):
                self._append_all(path, beside, report)
                if self._again(self._target.checksums, [beside]).get(beside) == checksum:
                    self._again(self._target.replace, beside, place)
                    return
                self._again(self._target.remove, beside)
                if self._is_in_place(place, checksum):
                    return
        except FileNotFoundError:
            # Put in place by another call that copies the same, or by this one before its connection broke.
            if self._is_in_place(place, checksum):
                return
            raise
        raise LaunchError(f"{path} changed while it was copied: wait until it is complete, then copy it again.")

    def _is_in_place(self, place: str, checksum: str) -> bool:
        return self._again(self._target.checksums, [place]).get(place) == checksum

    def _append_all(self, path: str, beside: str, report: "_Report") -> None:
        """Send the file however often the connection breaks, if more of it has come each time."""
        while True:
            size = report.size
            try:
                return self._again(self._append_rest, path, beside, report)
            except ConnectionLostError:
                if report.size == size:
                    raise

    def _append_rest(self, path: str, beside: str, report: "_Report") -> None:
        """Send what the file beside does not have yet."""
        offset = self._target.size(beside) or 0
        if offset > (self._source.size(path) or 0):
            self._target.remove(beside)
            offset = 0
        report.reached(offset)

        def pieces() -> Iterator[bytes]:
            sent = offset
            for piece in self._source.stream(path, offset):
                yield piece
                sent += len(piece)
                report.reached(sent)

        self._target.append(beside, pieces(), offset)

    def _again(self, do: Callable[..., _Result], *args: object) -> _Result:
        return again(self._seconds)(do, *args)


class _Report:
    """Tells each byte once, however often it had to be sent."""

    def __init__(self, path: str, told: Told | None) -> None:
        self.size = 0
        self._path, self._told = path, told

    def reached(self, size: int) -> None:
        """So much of the file is there now."""
        if size > self.size:
            if self._told:
                self._told(self._path, size - self.size)
            self.size = size
