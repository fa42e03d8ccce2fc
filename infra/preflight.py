"""What AWS would refuse, found out before `up`: credentials, zone, offering, quota, image, and the price."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra import capacity, quotas
from infra.config import ClusterConfig
from infra.estimate import Estimate, estimate, live_lookup, offline_lookup
from infra.instances import facts, names

# boto3 makes its clients at run time.
EC2Client = Any
Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """What one check found, in one sentence."""

    level: Level
    check: str
    message: str


def run(session: boto3.Session, config: ClusterConfig) -> Iterator[Finding]:
    """Every check in turn; the first error of credentials or zone ends them, for the others could not be told apart.

    Args:
        session: Credentials; the region is the configuration's.
        config: The cluster.
    """
    first = credentials(session, config)
    yield first
    if first.level == "error":
        return
    ec2 = session.client("ec2", region_name=config.region)
    for check in (zone, offered, image):
        found = _guarded(check.__name__, partial(check, ec2, config))
        yield from found
        if check is zone and any(finding.level == "error" for finding in found):
            return
    yield from _guarded("quota", partial(quota, session, config))
    yield price(session, config)


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check, or a warning where the credentials do not allow it."""
    try:
        return list(check())
    except (BotoCoreError, ClientError) as error:
        return [Finding("warning", name, f"Not checked, for AWS answered: {error}.")]


def credentials(session: boto3.Session, config: ClusterConfig) -> Finding:
    """Whether AWS takes the credentials."""
    try:
        identity = session.client("sts", region_name=config.region).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        return Finding(
            "error",
            "credentials",
            f"AWS takes no credentials of yours ({error}): run `aws configure` or `aws sso login`.",
        )
    return Finding("ok", "credentials", f"{identity['Arn']} in account {identity['Account']}.")


def zone(ec2: EC2Client, config: ClusterConfig) -> Iterator[Finding]:
    """Whether the account has the zone."""
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    usable = sorted(entry["ZoneName"] for entry in zones if entry["State"] == "available")
    if config.zone in usable:
        yield Finding("ok", "zone", f"{config.zone} is available.")
    else:
        yield Finding("error", "zone", f"cos:zone {config.zone} is not available to you: set {' or '.join(usable)}.")


def offered(ec2: EC2Client, config: ClusterConfig) -> Iterator[Finding]:
    """Whether the zone offers the types, and where else they are."""
    zones = offerings(ec2)
    for instance_type in sorted({config.master.type, *(group.type for group in config.workers)}):
        if instance_type in zones.get(config.zone, ()):
            yield Finding("ok", "offering", f"{config.zone} offers {instance_type}.")
        else:
            yield Finding("error", "offering", capacity.advice(instance_type, config.zone, zones))


def offerings(ec2: EC2Client) -> dict[str, set[str]]:
    """The types that each zone of the client's region offers."""
    zones: dict[str, set[str]] = {}
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(LocationType="availability-zone")
    for page in pages:
        for entry in page["InstanceTypeOfferings"]:
            zones.setdefault(entry["Location"], set()).add(entry["InstanceType"])
    return zones


def image(ec2: EC2Client, config: ClusterConfig) -> Iterator[Finding]:
    """Whether the pinned image is there, and is one that nodes start from."""
    try:
        images = ec2.describe_images(ImageIds=[config.ami])["Images"]
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("InvalidAMIID"):
            raise
        images = []
    remedy = "run `python -m infra.pin STACK --ami`"
    if not images or images[0].get("State", "available") != "available":
        yield Finding("error", "image", f"cos:ami {config.ami} is not in {config.region}: {remedy}.")
    elif images[0].get("Architecture", "x86_64") != "x86_64":
        yield Finding("error", "image", f"cos:ami {config.ami} is for {images[0]['Architecture']}: {remedy}.")
    else:
        yield Finding("ok", "image", f"{config.ami} is {images[0].get('Name', 'there')}.")


def quota(session: boto3.Session, config: ClusterConfig) -> Iterator[Finding]:
    """Whether the vCPUs are within the account's quotas, less what else runs already."""
    client = session.client("service-quotas", region_name=config.region)
    pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="ec2")
    limits = {entry["QuotaName"]: entry["Value"] for page in pages for entry in page["Quotas"]}
    used = used_vcpus(session.client("ec2", region_name=config.region), config.cluster)
    for name, wanted in sorted(quotas.wanted_vcpus(config).items()):
        if name not in limits:
            yield Finding("warning", "quota", f"Service Quotas does not list {name}: look it up for {wanted} vCPUs.")
            continue
        left = int(limits[name]) - used[name]
        if wanted <= left:
            yield Finding("ok", "quota", f"{wanted} of the {left} vCPUs left of {name}.")
        else:
            yield Finding(
                "error",
                "quota",
                f"The cluster needs {wanted} vCPUs of {name} and {left} of {int(limits[name])} are left in "
                f"{config.region}: ask Service Quotas for {used[name] + wanted}, or lower cos:workers.",
            )


def used_vcpus(ec2: EC2Client, cluster: str) -> Counter[str]:
    """vCPUs that run or start in the client's region, by quota, but for the cluster's: what it wants has them in."""
    used: Counter[str] = Counter()
    known = set(names())
    own = {"Key": "cos:cluster", "Value": cluster}
    running = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=running):
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                if own in instance.get("Tags", []):
                    continue
                name = quotas.quota_name(instance["InstanceType"], instance.get("InstanceLifecycle") == "spot")
                if name is not None and instance["InstanceType"] in known:
                    used[name] += facts(instance["InstanceType"]).vcpus
    return used


def price(session: boto3.Session, config: ClusterConfig) -> Finding:
    """The price an hour and up to the deadline: AWS's today, or the project's list where AWS does not say."""
    cost = _live(session, config) or estimate(config, offline_lookup(config))
    level: Level = "warning" if cost.unknown else "ok"
    return Finding(level, "price", f"{cost.hourly()}, {cost.total()}; S3 and traffic are left out.")


def _live(session: boto3.Session, config: ClusterConfig) -> Estimate | None:
    try:
        return estimate(config, live_lookup(config, session))
    except (BotoCoreError, ClientError):
        return None
