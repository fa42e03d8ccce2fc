"""A growing file on a host, as a stream that outlives its connection."""

import time
from collections.abc import Callable, Iterator

from bootstrap.host import Host
from bootstrap.transfer import again

POLL_SECONDS = 0.5
_PIECE = 1024 * 1024


def follow(
    host: Host,
    path: str,
    ended: Callable[[], bool],
    *,
    offset: int = 0,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """What is written to a file from the offset on, until it has ended and all is read.

    A lost connection is made again and the stream goes on at the byte where it broke off.

    Args:
        host: Where the file is; it may be missing yet.
        path: The file.
        ended: Whether nothing more will be written.
        offset: The byte to begin with.
        wait: Sleeps for some seconds between two looks.

    Raises:
        ConnectionLostError: The connection did not come back.
    """
    while True:
        # Asked before the last look: what was written until then is read by it.
        is_last = again()(ended)
        while piece := again()(read_some, host, path, offset):
            offset += len(piece)
            yield piece
        if is_last:
            return
        wait(POLL_SECONDS)


def read_some(host: Host, path: str, offset: int) -> bytes:
    """A piece of a file that may be missing yet."""
    try:
        return host.files.read(path, offset, _PIECE)
    except FileNotFoundError:
        return b""
