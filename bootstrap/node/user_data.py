"""The user data of a node: a deadline before anything else, then the seed that fetches the kit.

Runs on the laptop. The seed's modules travel inside the user data; what they fetch is bound to it by checksum.
"""

import base64
import gzip
import io
import json
import re
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bootstrap.errors import LaunchError
from bootstrap.node.plan import NodeHardware, NodePlan

__all__ = ["LIMIT", "NodeHardware", "NodePlan", "render"]

LIMIT = 16 * 1024  # bytes of user data that EC2 takes, before base64

# The modules that `bootstrap.node.seed` imports.
SEED = ("__init__", "aws", "context", "imds", "layout", "plan", "seed", "tell")
_START = """
cos="${COS_ROOT:-}/opt/cos" && mkdir -p "$cos/seed" && tar -xzf "$cos/seed.tar.gz" -C "$cos/seed" &&
PYTHONPATH="$cos/seed" exec python3 -m bootstrap.node.seed
"""
_HERE = Path(__file__).parent
_KIT = re.compile(r"[A-Za-z0-9._/-]+/[0-9a-f]{64}")


def render(plan: NodePlan) -> str:
    """The cloud-config of a node.

    Args:
        plan: What the node is for.

    Raises:
        LaunchError: Where a field cannot be right, or the text is larger than EC2 takes.
    """
    plan = _checked(plan)
    text = "#cloud-config\n" + json.dumps(_cloud_config(plan), indent=1) + "\n"
    if len(text.encode()) > LIMIT:
        raise LaunchError(f"The user data of {plan.cluster} has {len(text.encode())} bytes, and EC2 takes {LIMIT}.")
    return text


def _checked(plan: NodePlan) -> NodePlan:
    """The plan, unless no node could follow it."""
    try:
        plan = TypeAdapter(NodePlan).validate_python(asdict(plan))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LaunchError(f"The plan's {place} is {first['input']!r}: {first['msg']}.") from None
    if plan.ttl_minutes < 1:
        raise LaunchError(f"The plan's ttl_minutes is {plan.ttl_minutes}: a node lives for a minute at least.")
    if plan.idle_minutes < 0:
        raise LaunchError(f"The plan's idle_minutes is {plan.idle_minutes}: give 0 for a node that may idle.")
    if (plan.role == "worker") != (plan.master_host is not None):
        raise LaunchError(f"The plan's master_host is {plan.master_host!r}: a worker needs one, a master has none.")
    if not _KIT.fullmatch(plan.kit):
        raise LaunchError(f"The plan's kit is {plan.kit!r}: it has to end in the SHA-256 of the kit's manifest.")
    return plan


def _cloud_config(plan: NodePlan) -> dict[str, Any]:
    """The cloud-config as data; as JSON it is YAML too."""
    return {
        # The first module that runs, and at every boot: whatever fails later, the node ends.
        "bootcmd": [["sh", "-c", _deadline(plan.ttl_minutes)]],
        "ssh_pwauth": False,
        "disable_root": True,
        # The launcher pins the host keys it reads on the console.
        "ssh": {"emit_keys_to_console": True},
        "package_update": False,
        "package_upgrade": False,
        "write_files": [
            {"path": "/etc/cos/plan.json", "permissions": "0600", "content": plan.to_json()},
            {"path": "/opt/cos/seed.tar.gz", "permissions": "0600", "encoding": "b64", "content": _seed()},
        ],
        "runcmd": [
            # Again: logind, which the first one asks, may not have been up so early.
            ["sh", "-c", _deadline(plan.ttl_minutes)],
            ["sh", "-c", _START],
        ],
    }


def _deadline(minutes: int) -> str:
    """A command that schedules the shutdown; by systemd's own timer where logind does not answer yet."""
    timer = f"systemd-run --no-block --unit cos-ttl --on-active={minutes}m systemctl poweroff"
    return f"shutdown -P +{minutes} || {timer}"


def _seed() -> str:
    """The seed's modules as a tar.gz in base64: one archive, because EC2 takes 16 KiB in all."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in {"bootstrap/__init__.py": b"", **_modules()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # The time stamp in gzip's header would make every rendering another one.
    return base64.b64encode(gzip.compress(packed.getvalue(), mtime=0)).decode()


def _modules() -> dict[str, bytes]:
    return {f"bootstrap/node/{name}.py": (_HERE / f"{name}.py").read_bytes() for name in SEED}
