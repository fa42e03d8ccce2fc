"""EC2's quotas, which count vCPUs by family and market."""

import re
from collections import Counter

from infra.config import ClusterConfig
from infra.instances import facts

_STANDARD = "Standard (A, C, D, H, I, M, R, T, Z)"
_CLASSES = {"g": "G and VT", "vt": "G and VT", "p": "P", "hpc": "HPC", "trn": "Trn", "inf": "Inf", "dl": "DL", "f": "F"}
_CLASSES |= {"x": "X", **dict.fromkeys("acdhimrtz", _STANDARD)}


def quota_name(instance_type: str, spot: bool) -> str | None:
    """The name that Service Quotas has for the quota of a type, None for a family that has one of another kind.

    Source: "Amazon EC2 service quotas" and "Spot Instance quotas" in AWS's EC2 user guide.
    """
    match = re.match(r"gr|im|is|[a-z]+", instance_type)
    prefix = match[0] if match else ""
    prefix = {"gr": "g", "im": "i", "is": "i"}.get(prefix, prefix)
    kind = _CLASSES.get(prefix)
    if kind is None:
        return None
    return f"All {kind} Spot Instance Requests" if spot else f"Running On-Demand {kind} instances"


def wanted_vcpus(config: ClusterConfig) -> Counter[str]:
    """vCPUs that a cluster adds to each quota; what is reserved or bought as a block counts there already."""
    wanted: Counter[str] = Counter()
    nodes = [(config.master.type, 1, False)]
    nodes += [
        (group.type, group.count, group.market == "spot") for group in config.workers if group.reservation is None
    ]
    for instance_type, count, spot in nodes:
        name = quota_name(instance_type, spot)
        if name is not None:
            wanted[name] += count * facts(instance_type).vcpus
    return wanted
