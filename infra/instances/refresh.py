"""Makes table.json anew: `python -m infra.instances.refresh` (with `--moto` where there are no credentials).

The facts are EC2's own, from DescribeInstanceTypes. moto, which the tests use, holds a copy of that answer for all
types, so that the table can be made without an account; the table says which of the two it was.
"""

import argparse
import datetime
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import boto3

from infra.instances import TABLE

# boto3 makes its clients and their answers at run time.
EC2Client = Any
InstanceTypeInfo = Mapping[str, Any]


def efa_device(interfaces: int) -> int:
    """The device index of an interface that is nothing but an EFA.

    Device 0 of card 0 is the primary interface, which must have an address. On further cards AWS's page says device 0
    and AWS ParallelCluster 3.16 (`queues_stack.py`) takes 1 wherever the card holds two; this follows ParallelCluster,
    which launches clusters that way.
    """
    return 0 if interfaces == 1 else 1


def record(info: InstanceTypeInfo) -> dict[str, Any]:
    """One line of the table from one entry of EC2's answer."""
    network = info["NetworkInfo"]
    gpus = info.get("GpuInfo", {}).get("Gpus", [])
    cards = [
        {
            "interfaces": card["MaximumNetworkInterfaces"],
            "efa": "efa" in card.get("InterfaceTypes", []),
            "efa_device": efa_device(card["MaximumNetworkInterfaces"]),
        }
        for card in sorted(network["NetworkCards"], key=lambda card: card["NetworkCardIndex"])
    ]
    architectures = info["ProcessorInfo"]["SupportedArchitectures"]
    return {
        "architecture": "x86_64" if "x86_64" in architectures else architectures[0],
        "vcpus": info["VCpuInfo"]["DefaultVCpus"],
        "memory_mib": info["MemoryInfo"]["SizeInMiB"],
        "gpus": sum(gpu["Count"] for gpu in gpus),
        "gpu_name": gpus[0]["Name"] if gpus else "",
        "gpu_memory_mib": gpus[0]["MemoryInfo"]["SizeInMiB"] if gpus else 0,
        "nvme_gb": info.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0),
        "network_gbps": round(sum(card.get("PeakBandwidthInGbps", 0) for card in network["NetworkCards"]), 3),
        "efa_interfaces": network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0),
        "cards": cards,
        "cluster_placement": "cluster" in info["PlacementGroupInfo"]["SupportedStrategies"],
        "markets": sorted(info["SupportedUsageClasses"]),
    }


def describe(client: EC2Client) -> Iterable[InstanceTypeInfo]:
    """Every type that the client's region knows."""
    for page in client.get_paginator("describe_instance_types").paginate():
        yield from page["InstanceTypes"]


def write(infos: Iterable[InstanceTypeInfo], source: str, path: Path = TABLE) -> int:
    """Write the table beside and rename it; one type a line, so that a diff shows what EC2 changed.

    Returns:
        How many types it holds.
    """
    records = {info["InstanceType"]: record(info) for info in infos}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [f"{json.dumps(name)}:{json.dumps(records[name], separators=(',', ':'))}" for name in sorted(records)]
    head = f'{{"generated":{json.dumps(today)},"source":{json.dumps(source)},"types":{{'
    fresh = path.with_suffix(".tmp")
    fresh.write_text(head + "\n" + ",\n".join(lines) + "\n}}\n")
    fresh.replace(path)
    return len(records)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the table of instance types anew.")
    parser.add_argument("--moto", action="store_true", help="from moto's copy of EC2's answer, without an account")
    parser.add_argument("--region", default="us-east-1", help="whose types; us-east-1 has nearly all")
    arguments = parser.parse_args()
    if arguments.moto:
        from moto import mock_aws  # noqa: PLC0415 - a package of the tests only

        with mock_aws():
            client = boto3.client("ec2", "us-east-1", aws_access_key_id="moto", aws_secret_access_key="moto")  # noqa: S106
            source = f"EC2 DescribeInstanceTypes as moto {importlib.metadata.version('moto')} holds it"
            count = write(describe(client), source)
    else:
        count = write(
            describe(boto3.client("ec2", arguments.region)), f"EC2 DescribeInstanceTypes in {arguments.region}"
        )
    print(f"{TABLE}: {count} types")


if __name__ == "__main__":
    main()
