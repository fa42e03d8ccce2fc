"""How long a cluster has been idle, seen from one of its nodes."""

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bootstrap.node import activity
from bootstrap.node.context import Context

TELL_SECONDS = 60.0
BOOT_SECONDS = 3600.0  # about all of a boot's own limits together
_STALE_SECONDS = 300.0
_REQUEST_SECONDS = 20.0

_log = logging.getLogger("idle")


def key(context: Context) -> str:
    """The object in which the master says whether the cluster is used."""
    return f"nodes/{context.plan.cluster}/activity.json"


class Idleness:
    """Since when no application and no ssh session has been there; the node's boot does not count.

    The master sees both and writes them to the bucket once a minute: its page listens on the loopback alone. A worker
    reads that, and looks at its own executors and sessions besides, which is all it has when the master is gone.

    Args:
        context: The node.
        tell_seconds: How often the bucket is written or read.
        clock: Counts seconds, from anywhere.
    """

    def __init__(
        self, context: Context, tell_seconds: float = TELL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._context = context
        self._tell_seconds = tell_seconds
        self._began = self._since = self._clock()
        self._next = -math.inf
        self._master_says_busy = False

    def seconds_left(self) -> float:
        """Seconds until the cluster has idled for as long as it may; infinite where it may idle."""
        limit = self._context.plan.idle_minutes * 60
        if not limit:
            return math.inf
        if self._is_busy() or self._is_booting():
            self._since = self._clock()
        return self._since + limit - self._clock()

    def _is_booting(self) -> bool:
        """Whether this boot has not said yet how it went; one that died never does, and its node is to end too."""
        return not self._context.layout.status.is_file() and self._clock() - self._began < BOOT_SECONDS

    def _is_busy(self) -> bool:
        is_due = self._clock() >= self._next
        if is_due:
            self._next = self._clock() + self._tell_seconds
        if self._context.plan.role == "master":
            busy = activity.applications() > 0 or activity.ssh_sessions() > 0
            if is_due:
                self._tell(busy)
            return busy
        if is_due:
            self._master_says_busy = self._hear()
        return self._master_says_busy or activity.ssh_sessions() > 0 or self._has_executors()

    def _has_executors(self) -> bool:
        try:
            return activity.executors(self._context.metadata.fact("local-ipv4")) > 0
        except OSError:
            return False

    def _tell(self, busy: bool) -> None:
        """Let the workers know."""
        word = json.dumps({"busy": busy, "at": self._context.metadata.now()})
        try:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "activity.json")
                path.write_text(word)
                self._context.aws.put_object(self._context.plan.bucket, key(self._context), path, _REQUEST_SECONDS)
        except OSError as error:  # a full disk's too
            _log.warning("the workers cannot be told: %s", error)

    def _hear(self) -> bool:
        """What the master says; nothing where it has been silent for minutes."""
        try:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "activity.json")
                self._context.aws.get_object(self._context.plan.bucket, key(self._context), path, _REQUEST_SECONDS)
                word = json.loads(path.read_text())
            is_fresh = self._context.metadata.now() - float(word["at"]) < _STALE_SECONDS
            return is_fresh and bool(word["busy"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # a full disk's too
            _log.info("no word of the master: %s", error)
            return False
