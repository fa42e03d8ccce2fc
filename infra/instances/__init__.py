"""Facts of EC2 instance types, from the generated table beside this file; `refresh.py` makes it."""

import difflib
import functools
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bootstrap.errors import LaunchError

TABLE = Path(__file__).with_name("table.json")


class NetworkCard(BaseModel):
    """One network card of an instance type; its index is its place in the list.

    Attributes:
        interfaces: How many network interfaces it holds.
        efa: Whether one of them may be an EFA.
        efa_device: The device index for an interface that is nothing but an EFA.
    """

    model_config = ConfigDict(frozen=True)

    interfaces: int
    efa: bool
    efa_device: int


class InstanceFacts(BaseModel):
    """What EC2's DescribeInstanceTypes says of one type.

    Attributes:
        name: As in `p5.48xlarge`.
        architecture: `x86_64` or `arm64` (or one of Apple's, which no cluster uses).
        vcpus: Virtual CPUs as launched by default.
        memory_mib: Main memory.
        gpus: Number of NVIDIA or AMD GPUs.
        gpu_name: Their model, empty without one.
        gpu_memory_mib: Memory of each.
        nvme_gb: Instance store, all disks together.
        network_gbps: Peak bandwidth, all cards together.
        efa_interfaces: How many EFAs the type takes.
        cards: The network cards, by index.
        cluster_placement: Whether it may be in a cluster placement group.
        markets: `on-demand`, `spot`, `capacity-block`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    architecture: str
    vcpus: int
    memory_mib: int
    gpus: int
    gpu_name: str
    gpu_memory_mib: int
    nvme_gb: int
    network_gbps: float
    efa_interfaces: int
    cards: tuple[NetworkCard, ...]
    cluster_placement: bool
    markets: tuple[str, ...]

    @property
    def family(self) -> str:
        """The part before the dot."""
        return self.name.split(".", 1)[0]


class UnknownTypeError(LaunchError):
    """The table has no such type."""


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def table_date() -> str:
    """The day the table was made, as in `2026-11-26`."""
    return str(_table()["generated"])


def table_source() -> str:
    """Where its facts come from."""
    return str(_table()["source"])


def names() -> list[str]:
    """Every type of the table, sorted."""
    return sorted(_table()["types"])


@functools.cache
def facts(name: str) -> InstanceFacts:
    """The facts of one type.

    Raises:
        UnknownTypeError: The table does not have it.
    """
    record = _table()["types"].get(name)
    if record is None:
        near = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `aws ec2 describe-instance-types`."
        raise UnknownTypeError(f"{name} is not among the EC2 instance types of {table_date()}: {hint}")
    return InstanceFacts(name=name, **record)
