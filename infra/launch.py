"""What a node is launched from: its user data and its launch template."""

import base64
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pulumi
from pulumi_aws import ec2

from bootstrap.node.user_data import NodeHardware, NodePlan, render
from infra import efa
from infra.access import Access
from infra.config import ClusterConfig, WorkerGroup
from infra.instances import facts
from infra.labels import Labels
from infra.network import Network
from infra.storage import Storage


@dataclass(frozen=True)
class Site:
    """What all nodes of a cluster have in common; `opts` are those of every component."""

    config: ClusterConfig
    labels: Labels
    network: Network
    access: Access
    storage: Storage
    opts: pulumi.ResourceOptions


@dataclass(frozen=True)
class Machine:
    """What the nodes of one launch template have in common.

    Attributes:
        role: The master or workers.
        group: The worker group, `master` for the master.
        type: EC2 instance type.
        disk_gb: Root volume in GB.
        efas: How many EFAs each has.
    """

    role: Literal["master", "worker"]
    group: str
    type: str
    disk_gb: int
    efas: int


def user_data(site: Site, machine: Machine, master_host: pulumi.Input[str] | None) -> pulumi.Output[str]:
    """The cloud-init text of a node; nothing in it changes when the deadline is moved, or when our code does."""

    def rendered(values: list[Any]) -> str:
        plan, kit_dir = _node_plan(site, machine, *values), site.config.kit_dir
        return render(plan) if kit_dir is None else _kept(Path(kit_dir) / "user-data", plan)

    return pulumi.Output.all(site.storage.bucket, site.access.spark_secret, master_host).apply(rendered)


def _kept(folder: Path, plan: NodePlan) -> str:
    """User data as it was first rendered for a plan: the seed in it, which is our code, has to fit the kit.

    So newer code makes no other text, which would replace the nodes of a running cluster.
    """
    hardware = plan.expected.instance_type, plan.expected.efa_interfaces  # all else of it is a table of ours
    told = {**asdict(plan), "expected": hardware}
    path = folder / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        return path.read_text()
    text = render(plan)
    with suppress(OSError):  # another's kit, in whose folder nothing can be kept
        folder.mkdir(exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(text)
        beside.replace(path)
    return text


def _node_plan(site: Site, machine: Machine, bucket: str, secret: str, master_host: str | None) -> NodePlan:
    config, found = site.config, facts(machine.type)
    return NodePlan(
        cluster=config.cluster,
        role=machine.role,
        group=machine.group,
        region=config.region,
        bucket=bucket,
        kit=site.storage.kit,
        ttl_minutes=config.ttl_minutes,
        idle_minutes=config.idle_minutes,
        master_host=master_host,
        spark_secret=secret,
        expected=NodeHardware(
            instance_type=found.name,
            vcpus=found.vcpus,
            memory_mib=found.memory_mib,
            gpus=found.gpus,
            gpu_name=found.gpu_name,
            efa_interfaces=machine.efas,
            nvme_gb=found.nvme_gb,
        ),
    )


def template(site: Site, machine: Machine, text: pulumi.Output[str]) -> dict[str, Any]:
    """The arguments that the launch templates of all nodes have.

    Args:
        site: The cluster.
        machine: What is launched.
        text: The user data.
    """
    return {
        "image_id": site.config.ami,
        "instance_type": machine.type,
        "key_name": site.access.key_name,
        "iam_instance_profile": {"name": site.access.profiles[machine.role]},
        "user_data": text.apply(lambda script: base64.b64encode(script.encode()).decode()),
        # The node ends itself: a shutdown at its deadline is all it takes.
        "instance_initiated_shutdown_behavior": "terminate",
        "metadata_options": {
            "http_endpoint": "enabled",
            "http_tokens": "required",
            "http_put_response_hop_limit": 1,
            "instance_metadata_tags": "enabled",
        },
        "block_device_mappings": [{"device_name": "/dev/sda1", "ebs": _root_volume(machine.disk_gb)}],
        # Without the deadline: interfaces get their tags once, and a new version of the template would not reach them.
        "tag_specifications": [
            {"resource_type": "network-interface", "tags": site.labels.lasting(machine.group)},
        ],
        "tags": site.labels.tags(machine.group, role=machine.role, group=machine.group),
    }


def _root_volume(size_gb: int) -> dict[str, Any]:
    return {"volume_size": size_gb, "volume_type": "gp3", "encrypted": "true", "delete_on_termination": "true"}


def network_interface(site: Site, interface: efa.Interface) -> ec2.LaunchTemplateNetworkInterfaceArgsDict:
    """An interface of a worker, as its launch template has it."""
    made: ec2.LaunchTemplateNetworkInterfaceArgsDict = {
        "network_card_index": interface.card,
        "device_index": interface.device,
        "interface_type": interface.kind,
        "subnet_id": site.network.worker_subnet_id,
        "security_groups": [site.access.nodes_group_id],
        "delete_on_termination": "true",
    }
    if site.config.egress == "public-ip":
        made["associate_public_ip_address"] = "true"
    return made


def market(group: WorkerGroup) -> dict[str, Any]:
    """How workers are bought, as arguments of their launch template."""
    bought: dict[str, Any] = {}
    if group.market == "spot":
        once = {"spot_instance_type": "one-time", "instance_interruption_behavior": "terminate"}
        bought["instance_market_options"] = {"market_type": "spot", "spot_options": once}
    if group.market == "capacity-block":
        bought["instance_market_options"] = {"market_type": "capacity-block"}
    if group.reservation is not None:
        target = {"capacity_reservation_id": group.reservation}
        bought["capacity_reservation_specification"] = {"capacity_reservation_target": target}
    return bought


def digest(config: ClusterConfig, launched: dict[str, Any], text: pulumi.Output[str]) -> pulumi.Output[str]:
    """A digest of what a node is launched from: another digest means another node.

    Args:
        config: The cluster's.
        launched: The group's own settings.
        text: The user data.
    """
    place = [config.ami, config.zone, config.egress, config.ssh_public_key, config.vpc_id, config.subnet_id]
    return text.apply(lambda script: hashlib.sha256(repr((place, launched, script)).encode()).hexdigest())
