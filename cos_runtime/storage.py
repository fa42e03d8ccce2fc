"""Files by path or URL: local, ``file:``, ``hdfs://``, ``s3://`` and whatever else fsspec knows."""

import contextlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from cos_runtime.errors import UserError


def is_remote(path: str) -> bool:
    """Whether the path has a scheme other than ``file:``."""
    scheme, colon, _ = path.partition(":")
    return bool(colon) and scheme != "file" and path.startswith(f"{scheme}://")


def local_path(path: str) -> str:
    """A local path without its ``file:`` (``file:/a``, ``file:///a`` and ``file:a`` are all taken)."""
    if not path.startswith("file:"):
        return path
    rest = path.removeprefix("file:")
    return "/" + rest.lstrip("/") if rest.startswith("/") else rest


def resolve(path: str, base: str) -> str:
    """The absolute form of ``path``; a relative one counts from the folder ``base`` (itself a path or URL)."""
    if is_remote(path):
        return path
    plain = local_path(path)
    if os.path.isabs(plain):
        return os.path.normpath(plain)
    if is_remote(base):
        return posixpath.join(base.rstrip("/"), plain)
    return os.path.abspath(os.path.join(local_path(base), plain))


def parent(path: str) -> str:
    """The folder that holds ``path``, absolute."""
    if is_remote(path):
        return path.rpartition("/")[0]
    return os.path.dirname(os.path.abspath(local_path(path)))


def exists(path: str) -> bool:
    """Whether a file or folder is at ``path``."""
    filesystem, name = _filesystem(path)
    return bool(filesystem.exists(name))


def is_folder(path: str) -> bool:
    """Whether a folder is at ``path``."""
    filesystem, name = _filesystem(path)
    return bool(filesystem.isdir(name))


def read_bytes(path: str, what: str = "file") -> bytes:
    """The content of a file; ``what`` names its role where it is missing or unreadable."""
    filesystem, name = _filesystem(path)
    try:
        content = filesystem.cat_file(name)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    return bytes(content)


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part."""
    filesystem, name = _filesystem(path)
    if is_remote(path):
        # Object stores publish an object when its upload is complete, and have no rename.
        filesystem.pipe_file(name, content)
        return
    target = Path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(target)
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str) -> Iterator["NewFolder"]:
    """A folder to put files into: it is there, whole, when the context ends, and not at all where it fails.

    An object store has no rename: there the files come one by one.
    """
    filesystem, name = _filesystem(path)
    folder = NewFolder(filesystem, name if is_remote(path) else str(_beside(Path(name))))
    try:
        filesystem.makedirs(folder.path, exist_ok=True)
        yield folder
        if folder.path != name:
            os.rename(folder.path, name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(folder.path, recursive=True)
        raise


@dataclass(frozen=True)
class NewFolder:
    """Where :func:`new_folder` puts its files."""

    filesystem: Any
    path: str

    def open(self, name: str) -> IO[bytes]:
        """A new file in it."""
        file: IO[bytes] = self.filesystem.open(f"{self.path}/{name}", "wb")
        return file


def remove(path: str) -> None:
    """Remove a file.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, name = _filesystem(path)
    filesystem.rm_file(name)


def matching(pattern: str) -> list[str]:
    """The paths or URLs of the files whose names fit, ``*`` standing for anything, sorted."""
    filesystem, name = _filesystem(pattern)
    found = sorted(filesystem.glob(name))
    return [str(filesystem.unstrip_protocol(each)) for each in found] if is_remote(pattern) else list(map(str, found))


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        filesystem, name = fsspec.core.url_to_fs(path if is_remote(path) else os.path.abspath(local_path(path)))
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    return filesystem, name
