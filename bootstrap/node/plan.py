"""What a node is told about itself: written by the laptop into the user data, read back on the node.

Standard library only, as all of `bootstrap.node`: it has to run before anything is installed.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class NodeHardware:
    """What an instance type promises.

    Attributes:
        instance_type: Its name at EC2, as `p5.48xlarge`.
        vcpus: Virtual CPUs.
        memory_mib: Memory in MiB.
        gpus: NVIDIA GPUs.
        gpu_name: The model as EC2 names it (`A100`, `L40S`); empty where there are none.
        efa_interfaces: EFA interfaces the plan gives the node, which may be fewer than the type could have.
        nvme_gb: Instance store on NVMe, in GB of 10^9 bytes, all devices together.
    """

    instance_type: str
    vcpus: int
    memory_mib: int
    gpus: int = 0
    gpu_name: str = ""
    efa_interfaces: int = 0
    nvme_gb: int = 0


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What one node is for.

    Attributes:
        cluster: Name of the cluster.
        role: The master, or a worker.
        group: The worker group it belongs to.
        region: AWS region.
        bucket: The stack's bucket.
        kit: S3 prefix of the kit. It ends in the SHA-256 of the manifest, so that the user data vouches for the kit.
        ttl_minutes: Minutes from boot to shutdown; not the deadline itself, as `cos extend` must not change user data.
        idle_minutes: Minutes without application and ssh session that end in shutdown; 0 for never.
        master_host: The master's private address; None on the master.
        spark_secret: Name or ARN of the Secrets Manager secret that Spark's daemons and applications share.
        expected: What the instance type promises.
    """

    cluster: str
    role: Literal["master", "worker"]
    group: str
    region: str
    bucket: str
    kit: str
    ttl_minutes: int
    idle_minutes: int
    master_host: str | None
    spark_secret: str
    expected: NodeHardware

    def to_json(self) -> str:
        """The plan as the node reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> "NodePlan":
        """The plan of this node."""
        fields: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**fields, "expected": NodeHardware(**fields["expected"])})
