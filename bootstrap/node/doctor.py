"""How a node is now: `python -m bootstrap.node.doctor [HOST:PORT ...]` prints one JSON object.

The promises of the instance type are checked as at boot; besides, what may have changed since: clock, disks, services.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bootstrap.node import hardware
from bootstrap.node.context import Context

_ANSWER_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
_SERVICES = {"master": ("cos-guard", "cos-master"), "worker": ("cos-guard", "cos-worker")}


def examine(context: Context, ports: Sequence[str]) -> dict[str, Any]:
    """The node's findings.

    Args:
        context: The node.
        ports: Others' ports, as `10.42.0.7:7077`, that it has to reach.

    Returns:
        `shortages` (sentences), `driver` and `efa` (what is there), `expected_efa`, `clock` (seconds since the epoch),
        `disks` (free share by path), `services` (state by unit) and `ports` (whether each is reached).
    """
    plan, layout = context.plan, context.layout
    paths = {"/": layout.root, "scratch": layout.scratch}
    return {
        "shortages": [str(shortage) for shortage in hardware.shortages(plan.expected)],
        "driver": _driver() if plan.expected.gpus else None,
        "efa": hardware.efa_interfaces() if plan.expected.efa_interfaces else 0,
        "expected_efa": plan.expected.efa_interfaces,
        "clock": time.time(),
        "disks": {name: _free(str(path)) for name, path in paths.items() if path.exists()},
        "services": {name: _state(name) for name in _SERVICES[plan.role]},
        "ports": {port: _is_open(port) for port in ports},
    }


def _is_open(port: str) -> bool:
    host, _, number = port.rpartition(":")
    try:
        with socket.create_connection((host, int(number)), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _free(path: str) -> float:
    usage = shutil.disk_usage(path)
    return usage.free / usage.total


def _driver() -> str | None:
    said = _ask(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return said.splitlines()[0].strip() if said.strip() else None


def _state(unit: str) -> str:
    return _ask(["systemctl", "show", "--value", "--property", "ActiveState", unit]).strip() or "unknown"


def _ask(command: list[str]) -> str:
    """What a program says; empty where it is missing or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True, errors="replace"
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    print(json.dumps(examine(Context.of_this_node(), sys.argv[1:])))
