"""Files by path or URL: local, ``file:``, ``hdfs://``, ``s3://`` and whatever else fsspec knows."""

import contextlib
import os
import posixpath
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec import AbstractFileSystem

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
        scheme, _, rest = base.partition("://")
        host, _, folder = rest.partition("/")
        # With its slash, so that no ".." leads out of the bucket.
        return f"{scheme}://{host}{posixpath.normpath(posixpath.join(f'/{folder}', plain))}"
    return os.path.abspath(os.path.join(local_path(base), plain))


def parent(path: str) -> str:
    """The folder that holds ``path``, absolute."""
    if is_remote(path):
        return path.rpartition("/")[0]
    return os.path.dirname(os.path.abspath(local_path(path)))


def exists(path: str) -> bool:
    """Whether a file or folder is at ``path``.

    Raises:
        UserError: the place is out of reach.
    """
    with _reaching(path) as (filesystem, name):
        return bool(filesystem.exists(name))


def is_folder(path: str) -> bool:
    """Whether a folder is at ``path``.

    Raises:
        UserError: the place is out of reach.
    """
    with _reaching(path) as (filesystem, name):
        return bool(filesystem.isdir(name))


def names(folder: str) -> set[str]:
    """The names of the files and folders in a folder; none where there is no such folder.

    Raises:
        UserError: the place is out of reach.
    """
    with _reaching(folder) as (filesystem, name):
        filesystem.invalidate_cache(name)
        try:
            found = filesystem.ls(name, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return set()
    return {str(each).rstrip("/").rpartition("/")[2] for each in found}


def refuse_unwritable(path: str, what: str) -> None:
    """Refuse a local path at which no file can be made; its folder is made. URLs are taken as they are.

    Args:
        what: names the path's role.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    if is_remote(path):
        return
    folder = parent(path)
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be written: {_reason(error)}; name another place") from None


def read_bytes(path: str, what: str = "file") -> bytes:
    """The content of a file; ``what`` names its role where it is missing or unreadable.

    Raises:
        UserError: it is.
    """
    filesystem, name = _filesystem(path)
    try:
        return bytes(filesystem.cat_file(name))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except _unreachable() as error:
        raise UserError(f"{what} {path} cannot be read: {_reason(error)}") from None


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part.

    On HDFS, which renames to no name that is taken, there is neither for a moment.
    """
    filesystem, name = _filesystem(path)
    if not is_remote(path):
        _write_local(Path(name), content)
    elif getattr(filesystem.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file:
        _write_and_rename(filesystem, name, content)
    else:
        # Object stores publish an object when its upload is complete, and have no rename.
        filesystem.pipe_file(name, content)


def _write_and_rename(filesystem: Any, name: str, content: bytes) -> None:
    """For a filesystem without a way of its own to write a file at once: fsspec's writes under the final name."""
    beside = str(_beside(Path(name)))
    filesystem.makedirs(posixpath.dirname(name), exist_ok=True)
    try:
        filesystem.pipe_file(beside, content)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.rm_file(beside)
        raise
    # From here on it may be the only copy: it stays where one of these fails.
    if filesystem.exists(name):
        filesystem.rm_file(name)
    filesystem.mv(beside, name)


def _write_local(target: Path, content: bytes) -> None:
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


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        filesystem, name = fsspec.core.url_to_fs(path if is_remote(path) else os.path.abspath(local_path(path)))
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        if not path.startswith("hdfs:"):
            raise UserError(f"{path} is out of reach: {_reason(error)}") from None
        raise UserError(
            f"{path} is out of reach: {_reason(error)}; hdfs:// needs Java and Hadoop's libhdfs: set JAVA_HOME, "
            "HADOOP_HOME and CLASSPATH (hadoop classpath --glob), and see that the name node runs"
        ) from None
    return filesystem, name


@contextmanager
def _reaching(path: str) -> Iterator[tuple[Any, str]]:
    """The filesystem and the name in it, its errors told in a sentence."""
    filesystem, name = _filesystem(path)
    try:
        yield filesystem, name
    except _unreachable() as error:
        raise UserError(f"{path} is out of reach: {_reason(error)}") from None


def _unreachable() -> tuple[type[Exception], ...]:
    """What filesystems raise where a path is out of reach; botocore is slow to import, and asked only where it is."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, botocore.BotoCoreError, botocore.ClientError) if botocore else (OSError,)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
