"""What to try when EC2 has no capacity: the next zone, then the next type."""

import math
from collections.abc import Iterable, Mapping

from infra.instances import InstanceFacts, facts, names

_CAPACITY_ERRORS = ("InsufficientInstanceCapacity", "InsufficientReservedInstanceCapacity", "Unsupported:")


def is_capacity_error(text: str) -> bool:
    """Whether what EC2 answered, as Pulumi prints it, means that it has no such instance to give there."""
    return any(code in text for code in _CAPACITY_ERRORS)


def advice(instance_type: str, zone: str, zones: Mapping[str, Iterable[str]]) -> str:
    """A sentence that names the next zone with a type, and the next type in this zone.

    Args:
        instance_type: What EC2 had none of.
        zone: Where.
        zones: The region's zones, each with the types it offers.
    """
    here = set(zones.get(zone, ()))
    others = sorted(name for name, offered in zones.items() if name != zone and instance_type in set(offered))
    instead = next((name for name in alternatives(instance_type) if name in here), None)
    tries = [f"set cos:zone to {others[0]}"] if others else []
    if instead is not None:
        tries.append(f"take {instead}, which {zone} offers")
    if not tries:
        tries.append("choose another cos:region, or reserve capacity and set the group's reservation")
    return f"EC2 has no {instance_type} to give in {zone} now: {', or '.join(tries)}."


def alternatives(instance_type: str) -> list[str]:
    """Types that may stand in for one, the nearest first: the same GPU before another, then the nearest in size."""
    wanted = facts(instance_type)
    able = [facts(name) for name in names() if name != instance_type and not name.endswith("metal")]
    able = [other for other in able if _may_replace(other, wanted)]
    return [other.name for other in sorted(able, key=lambda other: _distance(other, wanted))]


def _may_replace(other: InstanceFacts, wanted: InstanceFacts) -> bool:
    return (
        other.architecture == wanted.architecture
        and bool(other.gpus) == bool(wanted.gpus)
        and (other.efa_interfaces > 0 or not wanted.efa_interfaces)
        and other.gpu_memory_mib >= wanted.gpu_memory_mib
    )


def _distance(other: InstanceFacts, wanted: InstanceFacts) -> tuple[bool, float, bool, str]:
    """Another GPU is further than any size; sizes differ by their ratios."""
    pairs = [
        (other.gpus, wanted.gpus),
        (other.vcpus, wanted.vcpus),
        (other.memory_mib, wanted.memory_mib),
        (other.network_gbps, wanted.network_gbps),
    ]
    ratios = sum(abs(math.log((have + 1) / (want + 1))) for have, want in pairs)
    return other.gpu_name != wanted.gpu_name, ratios, other.family != wanted.family, other.name
