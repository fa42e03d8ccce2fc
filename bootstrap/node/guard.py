"""Ends a node: at its deadline, and when nobody has used the cluster for a while.

It asks nobody for leave. Where metadata, master or network are gone it goes by what it knew last, and should it be gone
itself, the shutdown it scheduled before comes all the same. `shutdown` terminates the instance.
"""

import logging
import math
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from bootstrap.node.context import Context
from bootstrap.node.idle import Idleness
from bootstrap.node.save import save

TICK_SECONDS = 5.0
SAVE_SECONDS = 120.0
_WARN_MINUTES = (30, 10, 5, 1)
_COMMAND_SECONDS = 30.0
_TAG = "cos:deadline"

_log = logging.getLogger("guard")


class Guard:
    """The guard of one node; `tick` is one look at everything.

    Args:
        context: The node.
        idleness: How long the cluster has been idle.
        save_seconds: Limit for the saving of logs and checkpoints, which begins as long before the deadline.
    """

    def __init__(self, context: Context, idleness: Idleness, save_seconds: float = SAVE_SECONDS) -> None:
        self._context = context
        self._idleness = idleness
        # A cluster of a few minutes would else end before it began.
        self._save_seconds = min(save_seconds, context.plan.ttl_minutes * 60 / 10)
        self._scheduled: float | None = None
        self._warnings = {"its deadline": math.inf, "nobody using the cluster": math.inf}

    def run(self) -> None:
        """Look every few seconds until the node has ended."""
        while not self.tick():
            time.sleep(TICK_SECONDS)

    def tick(self) -> bool:
        """Schedule, warn and, when it is time, end the node; whether it has."""
        deadline = self.deadline()
        if deadline != self._scheduled:
            self._schedule(deadline)
        for reason, seconds in self._left(deadline).items():
            if seconds <= 0:
                return self._end(reason)
            self._warn(reason, seconds)
        return False

    def _left(self, deadline: float) -> dict[str, float]:
        """Seconds until the node has to begin to end, by the reason."""
        return {
            "its deadline": deadline - self._context.metadata.now() - self._save_seconds,
            "nobody using the cluster": self._idleness.seconds_left(),
        }

    def deadline(self) -> float:
        """The deadline, in seconds since the epoch: the tag's, else the last known, else the TTL counted from boot."""
        known = self._context.layout.deadline
        deadline = self._tag()
        if deadline is None:
            try:
                return float(known.read_text())
            except (OSError, ValueError):
                deadline = self._context.metadata.now() - _uptime() + self._context.plan.ttl_minutes * 60
        beside = known.with_suffix(".part")
        try:
            known.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(str(deadline))
            beside.replace(known)
        except OSError as error:  # a full disk, with which a node has to end all the same
            _log.error("the deadline cannot be kept for when metadata are away: %s", error)
        return deadline

    def _tag(self) -> float | None:
        """The tag's deadline, None where it cannot be read or is none."""
        try:
            text = self._context.metadata.tag(_TAG)
        except OSError:
            return None
        try:
            return None if text is None else parse_deadline(text)
        except ValueError:
            _log.error("the tag %s is %r, which is no time with its zone: the deadline stays", _TAG, text)
            return None

    def _schedule(self, deadline: float) -> None:
        """Have the shutdown happen even if this guard does not live to see it."""
        _log.info("this node ends at %s", datetime.fromtimestamp(deadline, UTC).isoformat(timespec="seconds"))
        minutes = max(math.ceil((deadline - self._context.metadata.now()) / 60), 1)
        if _run(["shutdown", "-P", f"+{minutes}"]):
            self._scheduled = deadline
            _run(["systemctl", "stop", "cos-ttl.timer"])  # what user data may have fallen back to

    def _warn(self, reason: str, seconds: float) -> None:
        """Tell who is logged in, once for each of a few numbers of minutes."""
        if seconds > self._warnings[reason]:  # moved, or used again
            self._warnings[reason] = math.inf
        reached = min((minutes for minutes in _WARN_MINUTES if seconds <= minutes * 60), default=None)
        if reached is not None and reached * 60 < self._warnings[reason]:
            self._warnings[reason] = reached * 60
            _run(["wall", f"COS: this node shuts down in {math.ceil(seconds / 60)} min because of {reason}."])

    def _end(self, reason: str) -> bool:
        """Save what is worth it and shut down; whether that was to be had, and nobody has put it off meanwhile."""
        _log.warning("this node ends because of %s", reason)
        _run(["wall", f"COS: this node shuts down now because of {reason}."])
        save(self._context, self._save_seconds)
        if self._left(self.deadline())[reason] > 0:
            _log.warning("this node does not end: it was given more time, or is used again")
            _run(["wall", "COS: this node does not shut down: it was given more time, or is used again."])
            return False
        return _run(["shutdown", "-P", "now"])


def parse_deadline(text: str) -> float:
    """A time in ISO 8601 with its zone, as `2026-11-26T18:00:00Z`, in seconds since the epoch.

    Raises:
        ValueError: It is none, or lacks a zone.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.timestamp()


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _run(command: list[str]) -> bool:
    """Whether a command went well; the guard goes on either way."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.error("%s: %s", command[0], error)
        return False
    if ended.returncode:
        _log.info("%s: exit code %d: %s", command[0], ended.returncode, ended.stderr.strip())
    return ended.returncode == 0
