"""`cos push` and `cos fetch` of one large file, against scp over the same link."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.link import FarHost, far_host
from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import scratch
from bootstrap import transfer
from bootstrap.local_host import LocalFiles
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.files import SshFiles

_MEGABYTES = 256
_MEGABITS = 1000


def push() -> Pair:
    """Megabytes a second to the other host, its checksum included on our side."""
    return _pair(_push_ours, lambda far, path: far.scp(str(path), f"far:{far.folder}/scp"))


def fetch() -> Pair:
    """Megabytes a second from the other host, its checksum included on our side."""
    return _pair(_fetch_ours, lambda far, path: far.scp(f"far:{path}", f"{far.folder}/scp"))


def _push_ours(far: FarHost, path: Path) -> None:
    with Connection(far.address) as connection:
        transfer.copy(LocalFiles(), SshFiles(connection), {str(path): f"{far.folder}/ours"})


def _fetch_ours(far: FarHost, path: Path) -> None:
    with Connection(far.address) as connection:
        transfer.copy(SshFiles(connection), LocalFiles(), {str(path): f"{far.folder}/ours"})


def _pair(own: Callable[[FarHost, Path], None], other: Callable[[FarHost, Path], None]) -> Pair:
    path = scratch() / "large"
    if not path.exists():
        path.write_bytes(os.urandom(_MEGABYTES * 10**6))
    with far_host(_MEGABITS) as far:
        return _rate(own, far, path), _rate(other, far, path)


def _rate(copy: Callable[[FarHost, Path], None], far: FarHost, path: Path) -> float:
    start = time.perf_counter()
    copy(far, path)
    return _MEGABYTES / (time.perf_counter() - start)


BENCHMARKS = [
    Benchmark("push", "`cos push`, 256 MB over 1 Gbit/s", "scp", "MB/s", 0.8, push),
    Benchmark("fetch", "`cos fetch`, 256 MB over 1 Gbit/s", "scp", "MB/s", 0.8, fetch),
]
