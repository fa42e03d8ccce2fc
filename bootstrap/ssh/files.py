"""A node's files over SFTP."""

import posixpath
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import paramiko

from bootstrap.errors import LaunchError
from bootstrap.ssh import channels
from bootstrap.ssh.connection import Connection

_CHECKSUM_SECONDS = 600.0
# Python's hashlib uses the processor's own SHA instructions, where many a `sha256sum` does not. cloud-init, which each
# node has, needs a python3 of whatever version.
_CHECKSUMS = """
import hashlib, sys
for path in sys.stdin.buffer.read().split(bytes(1))[:-1]:
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    except OSError:
        continue
    sys.stdout.buffer.write(digest.hexdigest().encode() + b" " + path + bytes(1))
"""


class SshFiles:
    """The files of one node; see `bootstrap.host.Files`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def checksums(self, paths: Sequence[str]) -> Mapping[str, str]:
        """The SHA-256 of each of the files that is there, by one command for all."""
        if not paths:
            return {}
        given = b"".join(path.encode() + b"\0" for path in paths)
        command = shlex.join(["python3", "-c", _CHECKSUMS])
        finished = channels.run(self._connection, command, given, _CHECKSUM_SECONDS)
        if finished.code:
            name, said = self._connection.address.name, finished.errors.decode(errors="replace").strip()
            raise LaunchError(f"{name} cannot tell its files' checksums ({said}): it needs python3.")
        entries = [entry.decode() for entry in finished.output.split(b"\0") if entry]
        return {path: checksum for checksum, _, path in (entry.partition(" ") for entry in entries)}

    def tree(self, path: str) -> Mapping[str, int]:
        """The files below a folder, or the file itself."""
        with self._sftp(path) as sftp:
            attributes = sftp.stat(path)
            if not stat.S_ISDIR(attributes.st_mode or 0):
                return {"": attributes.st_size or 0}
            return dict(self._walk(sftp, path, ""))

    def size(self, path: str) -> int | None:
        """A file's size; None where there is none."""
        try:
            with self._sftp(path) as sftp:
                return sftp.stat(path).st_size
        except FileNotFoundError:
            return None

    def read(self, path: str, offset: int, limit: int | None = None) -> bytes:
        """Bytes from the offset on."""
        with self._sftp(path) as sftp, sftp.open(path, "rb") as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    def stream(self, path: str, offset: int) -> Iterator[bytes]:
        """The file from the offset on, as one stream that waits for no requests."""
        # Not by SFTP: paramiko asks ahead in a thread of its own, whose error at a broken connection nobody can catch.
        return channels.stream(self._connection, shlex.join(["tail", f"--bytes=+{offset + 1}", "--", path]))

    def append(self, path: str, pieces: Iterable[bytes], offset: int) -> None:
        """Write the pieces at the offset, with many requests under way."""
        with self._sftp(path) as sftp, self._open_to_write(sftp, path) as file:
            file.seek(offset)
            file.set_pipelined(True)
            for piece in pieces:
                file.write(piece)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, over another one if need be."""
        with self._sftp(target) as sftp:
            _make_folders(sftp, posixpath.dirname(target))
            sftp.posix_rename(source, target)

    def remove(self, path: str) -> None:
        """Remove a file, which may be missing."""
        try:
            with self._sftp(path) as sftp:
                sftp.remove(path)
        except FileNotFoundError:
            return

    def _walk(self, sftp: paramiko.SFTPClient, folder: str, below: str) -> Iterator[tuple[str, int]]:
        for entry in sorted(sftp.listdir_attr(folder), key=lambda entry: entry.filename):
            if not entry.filename or "/" in entry.filename:  # `..` paramiko leaves out
                name = self._connection.address.name
                raise LaunchError(
                    f"{name} tells of a file {entry.filename!r} in {folder}, which is no file's name: "
                    "trust that node no more, and make it anew."
                )
            path, name = posixpath.join(folder, entry.filename), posixpath.join(below, entry.filename)
            mode = entry.st_mode or 0
            if stat.S_ISDIR(mode):
                yield from self._walk(sftp, path, name)
            elif stat.S_ISREG(mode):
                yield name, entry.st_size or 0

    def _open_to_write(self, sftp: paramiko.SFTPClient, path: str) -> paramiko.SFTPFile:
        """The file, made where it is missing; never cut short, as another transfer may be writing the very same."""
        with suppress(FileNotFoundError):
            return sftp.open(path, "r+b")
        try:
            _make_folders(sftp, posixpath.dirname(path))
            sftp.open(path, "ab").close()
        except FileNotFoundError:  # SFTP's word for a file where a folder should be
            name = self._connection.address.name
            raise LaunchError(f"{path} cannot be made on {name}: is a part of the path a file?") from None
        return sftp.open(path, "r+b")

    @contextmanager
    def _sftp(self, path: str) -> Iterator[paramiko.SFTPClient]:
        """The file channel, its errors told apart: the file's own, and those of the connection."""
        try:
            yield self._connection.sftp()
        except FileNotFoundError:
            raise
        except PermissionError:
            name, user = self._connection.address.name, self._connection.address.user
            raise LaunchError(f"{user} may not do that with {path} on {name}: choose another path.") from None
        except (TimeoutError, EOFError, paramiko.SSHException) as error:
            raise self._broken(error) from error
        except OSError as error:
            if error.errno is None and self._connection.is_alive():  # the server's own word: no space, no folder
                name = self._connection.address.name
                raise LaunchError(f"{path} on {name}: {error}: choose another path or make room.") from None
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> LaunchError:
        # A channel with answers outstanding cannot be used again.
        self._connection.close()
        return self._connection.lost(error)


def _make_folders(sftp: paramiko.SFTPClient, folder: str) -> None:
    missing = []
    while folder not in ("", "/") and not _is_there(sftp, folder):
        missing.append(folder)
        folder = posixpath.dirname(folder)
    for name in reversed(missing):
        try:
            sftp.mkdir(name)
        except OSError:
            if not _is_there(sftp, name):  # nor made by another transfer meanwhile
                raise


def _is_there(sftp: paramiko.SFTPClient, path: str) -> bool:
    try:
        sftp.stat(path)
    except FileNotFoundError:
        return False
    return True
