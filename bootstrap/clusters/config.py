"""A cluster's configuration: `stacks/NAME/Pulumi.NAME.yaml` below the launcher's home, a Pulumi stack's own file."""

import datetime
import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3

from bootstrap import home
from bootstrap.cluster import LOCAL
from bootstrap.errors import LaunchError
from infra import pin, presets
from infra.config import ClusterConfig, load, tag_value
from infra.config_errors import ConfigError
from infra.labels import iso

_PINNED_AT_UP = ("ami", "deadline", "kit", "kit_dir")


def folder(name: str) -> Path:
    """The stack's directory."""
    return home.home() / "stacks" / name


def path(name: str) -> Path:
    """The stack's configuration file."""
    return folder(name) / f"Pulumi.{name}.yaml"


def names() -> list[str]:
    """The clusters that have a configuration here."""
    return sorted(entry.name for entry in (home.home() / "stacks").glob("*") if path(entry.name).is_file())


def create(name: str, values: Mapping[str, Any]) -> Path:
    """Write the configuration of a new cluster; the owner, address and key are found where they are not given.

    Raises:
        LaunchError: The name is taken, or a value cannot be right.
    """
    if name == LOCAL:
        raise LaunchError("`local` is this machine: give the cluster another name.")
    if path(name).exists():
        raise LaunchError(f"The name {name} is taken by {path(name)}: choose another, or change that file.")
    found = dict(values)
    found.setdefault("owner", tag_value(getpass.getuser()))
    if "ssh_from" not in found:
        found["ssh_from"] = f"{pin.address()}/32"
    if "ssh_public_key" not in found:
        found["ssh_public_key"] = pin.public_key()
    preview(name, found)
    _write(name, found)
    return path(name)


def read(name: str) -> dict[str, Any]:
    """The keys of a cluster's configuration, without their namespace.

    Raises:
        LaunchError: There is none.
    """
    if name == LOCAL:
        raise LaunchError("The local cluster comes and goes with its jobs: for one of AWS give --cluster NAME.")
    if not path(name).is_file():
        raise LaunchError(
            f"There is no configuration of a cluster {name!r} here: choose from {', '.join(names()) or 'none yet'}, or "
            f"make it by `cos init --cluster {name}`."
        )
    config = pin.read(path(name)).get("config") or {}
    return {key.removeprefix("cos:"): value for key, value in config.items() if key.startswith("cos:")}


def change(name: str, **values: Any) -> None:
    """Set keys of a cluster's configuration; None takes one out."""
    _write(name, {key: value for key, value in {**read(name), **values}.items() if value is not None})


def preview(name: str, values: Mapping[str, Any]) -> ClusterConfig:
    """A configuration with stand-ins for what only `up` pins: image, deadline, kit.

    Raises:
        ConfigError: It cannot be right.
    """
    from infra.plan import example  # noqa: PLC0415 - loads rich and Pulumi

    kept = {key: value for key, value in values.items() if key not in _PINNED_AT_UP}
    if "preset" not in kept:
        raise ConfigError(f"cos:preset is not set: name one of {', '.join(presets.names())}.")
    return example(str(kept.pop("preset")), {**kept, "cluster": name})


def pinned(name: str, session: boto3.Session, kit_dir: Path | None) -> ClusterConfig:
    """The configuration with all that `up` pins, which is written down: image, deadline and the kit's folder.

    Args:
        name: The cluster.
        session: For the image.
        kit_dir: The kit, where the configuration names none.

    Raises:
        ConfigError: Something cannot be found, or cannot be right.
    """
    now = datetime.datetime.now(datetime.UTC)
    values = read(name)
    if kit_dir is not None:
        values["kit_dir"] = str(kit_dir)
    if is_past(values.get("deadline"), now):  # everything of it has ended: this is a new life
        del values["deadline"]
    full = pin.pinned(values, session, now, pin.address)
    config = load({**full, "cluster": name}, now)
    _write(name, {**full, "deadline": iso(config.deadline)})
    return config


def is_past(deadline: Any, now: datetime.datetime) -> bool:
    """Whether a deadline, as the file has it, is over."""
    if isinstance(deadline, str):
        try:
            deadline = datetime.datetime.fromisoformat(deadline)
        except ValueError:  # the configuration's own check tells of it
            return False
    if not isinstance(deadline, datetime.datetime):
        return False
    return (deadline if deadline.tzinfo else deadline.replace(tzinfo=datetime.UTC)) <= now


def region(name: str) -> str:
    """A cluster's region, by its configuration.

    Raises:
        LaunchError: It names none.
    """
    values = read(name)
    merged = {**presets.values(str(values["preset"])), **values} if "preset" in values else values
    if not merged.get("region"):
        raise LaunchError(f"{path(name)} has no cos:region: name one such as us-east-1.")
    return str(merged["region"])


def resized(name: str, group: str, count: int) -> list[dict[str, Any]]:
    """The groups of workers with another count of one.

    Raises:
        LaunchError: There is no such group.
    """
    values = read(name)
    merged = {**presets.values(str(values["preset"])), **values} if "preset" in values else values
    groups = [dict(entry) for entry in merged.get("workers", [])]
    if group not in [entry["name"] for entry in groups]:
        known = ", ".join(entry["name"] for entry in groups)
        raise LaunchError(f"{name} has no group of workers {group!r}: choose from {known}.")
    return [{**entry, "count": count} if entry["name"] == group else entry for entry in groups]


def _write(name: str, values: Mapping[str, Any]) -> None:
    place = path(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    document = pin.read(place)
    foreign = {key: value for key, value in document.get("config", {}).items() if not key.startswith("cos:")}
    document["config"] = {**foreign, **{f"cos:{key}": value for key, value in values.items()}}
    pin.write(place, document)
