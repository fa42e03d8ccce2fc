"""What a host must offer a rank, looked at before the start: later it would be a riddle in the middle of training."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

from cos_runtime.errors import UserError

# What Python, torch and Spark's worker have open anyway; each rank has a line and sockets to every other.
_OWN_FILES, _FILES_A_RANK = 256, 8
# NCCL's buffers between two ranks of a host lie in shared memory.
_SHM_A_RANK = 64 << 20
_SHM = Path("/dev/shm")  # noqa: S108 - nothing is written there
# Clocks kept by NTP differ by milliseconds. With more than this, logs of one job tell another story on each host, and
# object stores refuse signed requests.
CLOCK_LIMIT = 60.0


def check_open_files(ranks: int) -> None:
    """Raise this process's limit of open files as far as is allowed.

    Raises:
        UserError: it is too low for an exchange between that many ranks.
    """
    needed = _OWN_FILES + _FILES_A_RANK * ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _allows(soft, needed):
        return
    if not _allows(hard, needed):
        raise UserError(
            f"{socket.gethostname()} allows a process {hard} open files and {ranks} ranks need {needed}: "
            "raise the limit (ulimit -n, or LimitNOFILE= of Spark's service)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def check_shared_memory(ranks_here: int, folder: Path = _SHM) -> None:
    """See whether GPU ranks of this host have room for the buffers between them.

    Raises:
        UserError: shared memory is missing or too small.
    """
    if ranks_here < 2:
        return
    needed = ranks_here * _SHM_A_RANK
    room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize if folder.is_dir() else 0
    if room < needed:
        raise UserError(
            f"{folder} on {socket.gethostname()} has {room >> 20} MB free and {ranks_here} GPU ranks need "
            f"{needed >> 20} MB: free it, or mount it larger (docker run --shm-size)"
        )


def check_clock(host: str, theirs: float, ours: float) -> None:
    """Compare a rank's clock with the driver's, in seconds since 1970.

    Raises:
        UserError: they differ by more than :data:`CLOCK_LIMIT`.
    """
    ahead = theirs - ours
    if abs(ahead) > CLOCK_LIMIT:
        word = "ahead of" if ahead > 0 else "behind"
        raise UserError(
            f"the clock of {host} is {abs(ahead):.0f} s {word} the driver's: set both by NTP (timedatectl set-ntp true)"
        )


def _allows(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
