"""Ready configurations: each file here is a stack's configuration, less what only its user knows."""

import functools
from pathlib import Path
from typing import Any

import yaml

from infra.config_errors import ConfigError

_HERE = Path(__file__).parent


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in _HERE.glob("Pulumi.*.yaml"))


@functools.cache
def _read(name: str) -> dict[str, Any]:
    document = yaml.safe_load((_HERE / f"Pulumi.{name}.yaml").read_text())
    return {key.removeprefix("cos:"): value for key, value in document["config"].items()}


def values(name: str) -> dict[str, Any]:
    """The keys that a preset sets, without their namespace.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in names():
        raise ConfigError(f"cos:preset is {name!r}: there are {', '.join(names())}.")
    return dict(_read(name))
