"""Shows what a preset makes, how its network looks and what it costs, without credentials.

    python -m infra.plan efa-h100 [KEY=VALUE ...]

Values are written as in a stack's configuration; lists and objects as YAML, such as `master={type: m7i.large}`.
"""

import datetime
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from bootstrap.errors import LaunchError
from infra import config_pairs, durations, picture, presets
from infra.config import ClusterConfig, load
from infra.config_errors import ConfigError
from infra.estimate import Estimate, estimate, offline_lookup
from infra.instances import facts, table_date
from infra.labels import iso
from infra.planned import Planned, plan

# What only a cluster's user knows, so that a preset can be shown without: addresses of RFC 5737, a kit that is none.
_STAND_INS = {
    "cluster": "example",
    "owner": "you",
    "ssh_from": "203.0.113.7/32",
    "ssh_public_key": "ssh-ed25519 AAAA you",
    "ami": "ami-0123456789abcdef0",
    "kit": "kit/" + "0" * 64,
}


def example(preset: str, values: dict[str, Any] | None = None) -> ClusterConfig:
    """A preset with stand-ins for what its user would set.

    Raises:
        ConfigError: There is no such preset, or a value cannot be right.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    merged = {**_STAND_INS, **presets.values(preset), "preset": preset, **(values or {})}
    return load({"deadline": now + durations.lifetime(merged.get("ttl", "8h")), **merged}, now)


def show(console: Console, config: ClusterConfig, resources: Sequence[Planned], cost: Estimate) -> None:
    """Print the plan of a cluster."""
    console.print(f"[bold]{config.preset or config.cluster}[/]: {config.node_count} nodes in {config.zone}")
    console.print(Padding(picture.network(config), (1, 0, 1, 2)))
    console.print(Padding(_nodes(config), (0, 0, 1, 2)))
    console.print(Padding(_costs(cost), (0, 0, 1, 2)))
    console.print(f"Price: [bold]{cost.hourly()}[/]; {cost.total()}. S3 and traffic are left out.")
    console.print(f"Ends: {_bounds(config)}.")
    console.print(f"Makes {len(resources)} resources: {_counted(resources)}.")


def _nodes(config: ClusterConfig) -> Table:
    table = Table("group", "nodes", "type", "vCPU", "GiB", "GPUs", "EFA", "NVMe GB", caption=f"types of {table_date()}")
    rows = [("master", 1, config.master.type, False)]
    rows += [(group.name, group.count, group.type, group.efa) for group in config.workers]
    for name, count, type_name, efa_wanted in rows:
        found = facts(type_name)
        gpus = f"{found.gpus} x {found.gpu_name}" if found.gpus else "-"
        efas = str(found.efa_interfaces) if efa_wanted else "-"
        table.add_row(
            name,
            str(count),
            type_name,
            str(found.vcpus),
            str(found.memory_mib // 1024),
            gpus,
            efas,
            str(found.nvme_gb or "-"),
        )
    return table


def _costs(cost: Estimate) -> Table:
    table = Table("what", "count", "$ an hour", "by")
    for line in cost.lines:
        price = "unknown" if line.usd is None else f"{line.usd:,.2f}"
        table.add_row(line.what, str(line.count), price, line.basis)
    return table


def _bounds(config: ClusterConfig) -> str:
    parts = [f"each node {config.ttl} after its boot", f"everything at {iso(config.deadline)} by a schedule outside"]
    if config.idle_minutes:
        parts.append(f"nodes after {config.idle} of idleness")
    if config.budget_usd is not None:
        parts.append(f"a mail to {config.budget_email} at 80 % of ${config.budget_usd:g} a month")
    return ", ".join(parts)


def _counted(resources: Sequence[Planned]) -> str:
    counts = Counter(resource.type.rsplit(":", 1)[1] for resource in resources)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main() -> int:
    """The command; 2 where the configuration is refused."""
    console = Console()
    try:
        if len(sys.argv) < 2:
            raise ConfigError(f"Name a preset: {', '.join(presets.names())}.")
        config = example(sys.argv[1], config_pairs.parse(sys.argv[2:]))
        show(console, config, plan(config), estimate(config, offline_lookup(config)))
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
