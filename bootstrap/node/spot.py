"""Hears that EC2 takes a spot node back, two minutes before it does."""

import json
import logging
import subprocess
import time

from bootstrap.node import units
from bootstrap.node.context import Context
from bootstrap.node.save import save

POLL_SECONDS = 5.0  # EC2's own advice
SAVE_SECONDS = 60.0

_log = logging.getLogger("spot")


def watch(context: Context, poll_seconds: float = POLL_SECONDS) -> None:
    """Wait for a notice and make the best of the two minutes that follow it."""
    while (action := _notice(context)) is None:
        time.sleep(poll_seconds)
    leave(context, action)
    while _notice(context) is not None:  # ends here only where the notice is taken back
        time.sleep(poll_seconds)
    context.layout.spot_notice.unlink(missing_ok=True)


def leave(context: Context, action: str) -> None:
    """Ask for a checkpoint, have the worker decommissioned, and save the logs."""
    _log.warning("EC2 will %s this node within two minutes", action)
    notice = context.layout.spot_notice
    notice.parent.mkdir(parents=True, exist_ok=True)
    beside = notice.with_name(".spot-notice.part")
    beside.write_text(json.dumps({"action": action, "at": context.metadata.now()}))
    beside.replace(notice)
    try:
        # The master gives it no more executors, and those it has hand on their blocks.
        units.systemctl("kill", "--kill-whom=main", "--signal=SIGPWR", "cos-worker.service")
    except OSError as error:
        _log.error("the worker could not be decommissioned: %s", error)
    try:
        subprocess.run(["wall", f"COS: EC2 will {action} this node within two minutes."], check=False, timeout=30.0)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.info("%s", error)
    save(context, SAVE_SECONDS)


def _notice(context: Context) -> str | None:
    try:
        return context.metadata.spot_action()
    except (OSError, ValueError, KeyError) as error:
        _log.info("%s", error)
        return None
