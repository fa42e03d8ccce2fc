"""Fills in what only a cluster's user knows, and pins it in the stack's configuration.

    python -m infra.pin STACK --preset gpu-single     makes Pulumi.STACK.yaml
    python -m infra.pin STACK --ami                   takes the newest image; `pulumi up` then replaces the nodes
    python -m infra.pin STACK --deadline              a deadline cos:ttl from now

"The latest image" moves: a program that asked for it at each `up` would replace the nodes of a running cluster. So it
is asked for once, here.
"""

import argparse
import datetime
import http.client
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from bootstrap.errors import LaunchError
from infra import durations, presets
from infra.config import ClusterConfig, tag_value
from infra.config_errors import ConfigError
from infra.labels import iso

_ADDRESS_SERVICE = "https://checkip.amazonaws.com"
_ADDRESS_SECONDS = 10.0
_KEYS = ("id_ed25519.pub", "id_rsa.pub")  # the kinds that EC2 takes


def pinned(
    values: dict[str, Any], session: boto3.Session, now: datetime.datetime, my_address: Callable[[], str]
) -> dict[str, Any]:
    """A stack's values with all that was missing.

    Args:
        values: Keys without namespace; one that is set stays.
        session: For the image and the owner; its region does not matter.
        now: The deadline is cos:ttl later.
        my_address: Finds the caller's public address.

    Raises:
        ConfigError: Something cannot be found; the message names the key to set by hand.
    """
    merged = {**presets.values(str(values["preset"])), **values} if "preset" in values else dict(values)
    region = str(merged.get("region", ""))
    ttl = durations.lifetime(merged.get("ttl", ClusterConfig.model_fields["ttl"].default))
    parameter = str(merged.get("ami_parameter", ClusterConfig.model_fields["ami_parameter"].default))
    found: dict[str, Callable[[], str]] = {
        "owner": lambda: caller(session),
        "ssh_from": lambda: f"{my_address()}/32",
        "ssh_public_key": public_key,
        "ami": lambda: image(session, region, parameter),
        "deadline": lambda: iso(now + ttl),
    }
    return {**values, **{key: find() for key, find in found.items() if key not in merged}}


def image(session: boto3.Session, region: str, parameter: str) -> str:
    """The machine image that a public SSM parameter names at this moment.

    Raises:
        ConfigError: AWS does not say.
    """
    try:
        answer = session.client("ssm", region_name=region or None).get_parameter(Name=parameter)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise ConfigError(
            f"cos:ami could not be read from {parameter} in {region or 'no region'} ({error}): "
            "mend the credentials, cos:region or cos:ami_parameter, or set cos:ami."
        ) from None
    return str(answer["Parameter"]["Value"])


def caller(session: boto3.Session) -> str:
    """The name at the end of the caller's ARN, as a tag may have it.

    Raises:
        ConfigError: There are no credentials that AWS takes.
    """
    try:
        identity = session.client("sts", region_name=session.region_name or "us-east-1").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(f"cos:owner could not be found ({error}): set it by hand, or mend the credentials.") from None
    return tag_value(str(identity["Arn"].rsplit(":", 1)[1].rsplit("/", 1)[-1]))


def address() -> str:
    """The public address that AWS sees the caller at.

    Raises:
        ConfigError: AWS is not reached within 10 seconds.
    """
    try:
        with urllib.request.urlopen(_ADDRESS_SERVICE, timeout=_ADDRESS_SECONDS) as answer:
            return str(answer.read().decode().strip())
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            f"cos:ssh_from could not be found at {_ADDRESS_SERVICE} ({error}): set your address with /32, or ssm."
        ) from None


def public_key(folder: Path | None = None) -> str:
    """The caller's public key.

    Raises:
        ConfigError: There is none in ~/.ssh.
    """
    folder = folder or Path.home() / ".ssh"
    for name in _KEYS:
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    raise ConfigError(f"cos:ssh_public_key is not set and {folder} has none of {', '.join(_KEYS)}: run `ssh-keygen`.")


def read(path: Path) -> dict[str, Any]:
    """A stack's configuration file, empty where there is none yet.

    Raises:
        ConfigError: It is no YAML, or not as Pulumi has it.
    """
    try:
        document = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML ({' '.join(str(error).split())}): mend that line.") from None
    if not isinstance(document, dict) or not isinstance(document.get("config") or {}, dict):
        raise ConfigError(f"{path} has no keys below `config:`: write them there, as in `cos:ttl: 8h`.")
    return document


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a stack's configuration file beside and rename it."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(yaml.safe_dump(document, sort_keys=False, width=120))
    fresh.replace(path)


def pin(path: Path, renewed: list[str], preset: str | None, session: boto3.Session) -> dict[str, Any]:
    """Bring a stack's file up to date.

    Returns:
        What was set, by key.
    """
    document = read(path)
    config = document.setdefault("config", {})
    values = {key.removeprefix("cos:"): value for key, value in config.items() if key.startswith("cos:")}
    chosen = {} if preset is None else {"preset": preset}
    kept = values | chosen
    for key in renewed:
        kept.pop(key, None)
    fresh = pinned(kept, session, datetime.datetime.now(datetime.UTC), address)
    changed = {key: value for key, value in fresh.items() if values.get(key) != value}
    document["config"] = {**config, **{f"cos:{key}": value for key, value in fresh.items()}}
    write(path, document)
    return changed


def main() -> int:
    """The command; 2 where something cannot be found."""
    parser = argparse.ArgumentParser(prog="python -m infra.pin", description="Pin what a stack's configuration lacks.")
    parser.add_argument("stack", help="the stack, whose file is Pulumi.STACK.yaml here")
    parser.add_argument("--preset", choices=presets.names(), help="the preset to start from")
    parser.add_argument("--ami", action="store_true", help="take the newest image")
    parser.add_argument("--deadline", action="store_true", help="set the deadline anew, cos:ttl from now")
    parser.add_argument("--ssh-from", action="store_true", help="take your present address")
    arguments = parser.parse_args()
    renewed = [key for key in ("ami", "deadline", "ssh_from") if getattr(arguments, key)]
    path = Path(f"Pulumi.{arguments.stack}.yaml")
    try:
        for key, value in pin(path, renewed, arguments.preset, boto3.Session()).items():
            print(f"{path}: cos:{key} {value}")
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
