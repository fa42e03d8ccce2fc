"""What a stack exports and the launcher reads."""

from typing import Any, Literal

import pulumi
from pydantic import BaseModel, ConfigDict

from infra import prices
from infra.config import SSM, ClusterConfig
from infra.labels import iso
from infra.nodes import Master, Workers


class Node(BaseModel):
    """One node.

    Attributes:
        id: EC2's instance id.
        role: The master or a worker.
        group: The worker group, `master` for the master.
        instance_type: As in `p5.48xlarge`.
        spot: Whether EC2 may take it back.
        private_ip: Its address in the VPC.
        public_ip: Its address on the internet, None without.
        hourly_usd: List price on demand, None where it is not known, as spot's.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    role: Literal["master", "worker"]
    group: str
    instance_type: str
    spot: bool
    private_ip: str
    public_ip: str | None
    hourly_usd: float | None


class ClusterOutputs(BaseModel):
    """A cluster as its stack tells of it.

    Attributes:
        deadline: ISO 8601 in UTC.
        ssh_via: `public` by the master's address, `ssm` through a session.
        spark_secret: ARN of the secret, not its value.
    """

    model_config = ConfigDict(frozen=True)

    cluster: str
    region: str
    zone: str
    owner: str
    deadline: str
    bucket: str
    ssh_user: str
    ssh_via: Literal["public", "ssm"]
    spark_secret: str
    master: Node
    workers: list[Node]


def export(
    config: ClusterConfig,
    bucket: pulumi.Input[str],
    spark_secret: pulumi.Input[str],
    master: Master,
    groups: list[Workers],
) -> None:
    """Export the fields of `ClusterOutputs`."""
    fields: dict[str, Any] = {
        "cluster": config.cluster,
        "region": config.region,
        "zone": config.zone,
        "owner": config.owner,
        "deadline": iso(config.deadline),
        "bucket": bucket,
        "ssh_user": "ubuntu",
        "ssh_via": "ssm" if config.ssh_from == SSM else "public",
        "spark_secret": spark_secret,
        "master": _master(config, master),
        "workers": [node for index, made in enumerate(groups) for node in _workers(config, index, made)],
    }
    for name, value in fields.items():
        pulumi.export(name, value)


def _master(config: ClusterConfig, master: Master) -> dict[str, Any]:
    price = prices.offline(config.master.type, config.region)
    return {
        "id": master.instance.id,
        "role": "master",
        "group": "master",
        "instance_type": config.master.type,
        "spot": False,
        "private_ip": master.private_ip,
        "public_ip": master.public_ip,
        "hourly_usd": price and price.usd,
    }


def _workers(config: ClusterConfig, index: int, made: Workers) -> list[dict[str, Any]]:
    group = config.workers[index]
    price = prices.offline(group.type, config.region) if group.market == "on-demand" else None
    public = config.egress == "public-ip"
    return [
        {
            "id": instance.id,
            "role": "worker",
            "group": group.name,
            "instance_type": group.type,
            "spot": group.market == "spot",
            "private_ip": instance.private_ip,
            "public_ip": instance.public_ip if public else None,
            "hourly_usd": price and price.usd,
        }
        for instance in made.instances.values()
    ]
