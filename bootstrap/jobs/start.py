"""Starts a job's runner so that it outlives us: under systemd where there is one, else in a session of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import LaunchError
from bootstrap.python_path import environment

_SYSTEMD = Path("/run/systemd/system")  # there exactly where systemd is the first process
_ENVIRONMENT_FILE = Path("/etc/cos/environment")
_SYSTEMD_SECONDS = 30.0


def unit(job: str) -> str:
    """The systemd unit of a job."""
    return f"cos-job-{job}"


def start(folder: Path, user: str | None = None) -> None:
    """Start the runner of the job in a directory, as a user where one is named."""
    command = [sys.executable, "-m", "bootstrap.jobs.runner", str(folder)]
    if _SYSTEMD.is_dir() and os.geteuid() == 0:
        _run(systemd_command(command, unit(folder.name), user, environment()["PYTHONPATH"]))
        return
    with (folder / "runner.log").open("ab") as log:
        subprocess.Popen(
            command,
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=user,
        )


def systemd_command(command: Sequence[str], name: str, user: str | None, python_path: str) -> list[str]:
    """The systemd-run command line for a runner."""
    return [
        "systemd-run",
        f"--unit={name}",
        "--collect",  # a failed job's unit goes as well: its record tells
        "--quiet",
        *([f"--uid={user}"] if user else []),
        "--property=KillMode=mixed",  # the runner alone is asked to stop: it stops the rest in order
        "--property=TimeoutStopSec=60",
        "--property=LimitMEMLOCK=infinity",
        f"--property=EnvironmentFile=-{_ENVIRONMENT_FILE}",
        f"--setenv=PYTHONPATH={python_path}",
        "--",
        *command,
    ]


def _run(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise LaunchError(f"systemd-run did not start the job within {_SYSTEMD_SECONDS:g} s: try again.") from None
    if ended.returncode:
        raise LaunchError(f"systemd-run did not start the job: {ended.stderr.strip()}")
