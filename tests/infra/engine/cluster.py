"""Stacks of the cluster's program, for the engine's tests."""

import datetime
from pathlib import Path
from typing import Any

from pulumi.automation import Stack

from infra import presets, program
from tests.fixtures.pulumi_engine import Engine

_PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPC4RzIyRJkkCEgZH7IMYFR2cJ6WdWMBcZ2Cqy3pNg0t tests"


def deadline(hours: int) -> str:
    """A time so many hours from now."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def cluster_stack(engine: Engine, preset: str, kit: Path, name: str | None = None, workers: int = 1) -> Stack:
    """A stack of a preset with what only its user knows, and so many workers a group."""
    values = presets.values(preset)
    config: dict[str, Any] = {
        "cos:preset": preset,
        "cos:owner": "tests",
        "cos:deadline": deadline(hours=2),
        "cos:ssh_from": "203.0.113.7/32",
        "cos:ssh_public_key": _PUBLIC_KEY,
        "cos:ami": engine.image(values["region"]),
        "cos:kit_dir": str(kit),
        "cos:keep_bucket": "false",
        "cos:budget_usd": "100",
        "cos:budget_email": "tests@example.org",
        "cos:workers": [group | {"count": workers} for group in values["workers"]],
    }
    return engine.stack(name or preset, program.main, config)
