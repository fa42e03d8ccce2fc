"""A remote file's copy on this host, fetched once for all its processes."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

import fsspec

from cos_runtime import storage
from cos_runtime.errors import UserError


def host_copy(url: str, what: str) -> str:
    """The local path of this host's copy of the file at ``url``.

    Copies lie in the user's folder in the host's temporary folder (which ``TMPDIR`` moves) and stay for later jobs; a
    file that changed at its origin is fetched anew.

    Args:
        what: the file's role, for errors.

    Raises:
        UserError: the file is missing or cannot be fetched.
    """
    if not storage.exists(url):
        raise UserError(f"{what} {url} does not exist")
    filesystem, name = fsspec.core.url_to_fs(url)
    folder = Path(tempfile.gettempdir(), f"cos-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
    version = hashlib.sha256(f"{url} {filesystem.ukey(name)}".encode()).hexdigest()
    copy, beside = folder / version, folder / f"{version}.part"
    with Path(folder, f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            try:
                filesystem.get_file(name, str(beside))
            except OSError as error:
                raise UserError(f"{what} {url} cannot be fetched: {error}") from None
            # Only a whole file gets the name that others look for.
            beside.replace(copy)
    return str(copy)
