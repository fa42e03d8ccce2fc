"""Ends a cluster by its tag and proves that nothing billable is left. Needs this file, boto3 and credentials.

    python teardown.py NAME [--region REGION | --all-regions] [--force] [--dry-run] [--delete-bucket]

It knows no state of Pulumi's: what bears the tag `cos:cluster` of that name is the cluster's, and nothing else is. What
AWS has for all regions at once, as roles, belongs to the one in its tag `cos:region`. It may be run again at any point,
and from cron. Exit codes: 0 nothing is left, 1 something is, 2 it was refused.

`cos down` and `cos sweep` are this code too.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple

import boto3
import jmespath
from botocore.exceptions import BotoCoreError, ClientError

TAG, DEADLINE_TAG, REGION_TAG = "cos:cluster", "cos:deadline", "cos:region"
SENT_PREFIX = "sent"
SAVE_SECONDS = 180.0  # the guard's own limit for saving, and its way to notice
REMOVE_SECONDS = 900.0  # a NAT gateway takes minutes, and what hangs on it waits for it
_POLL_SECONDS = 3.0
FRESH_SECONDS = 300.0
_REGIONS_AT_ONCE = 8
_LIVE = ("pending", "running", "stopping", "stopped")

Tell = Callable[[str], None]


class RefusedError(Exception):
    """What was asked is not done; one sentence with the way out."""


class Found(NamedTuple):
    """A resource of a cluster; `note` says what hinders its removal."""

    kind: str
    id: str
    region: str
    cluster: str
    owner: str
    deadline: str
    billable: bool
    note: str = ""


class Meter(NamedTuple):
    """What ran, when (ISO 8601): `usd` an hour is None where it is not known, `end` while it runs."""

    id: str
    what: str
    usd: float | None
    start: str
    end: str | None = None

    def hours(self, now: datetime) -> float:
        """How long it has run."""
        end = datetime.fromisoformat(self.end) if self.end else now
        return max(0.0, (end - datetime.fromisoformat(self.start)).total_seconds() / 3600)


class Place:
    """A region of the account, with its clients, each made once."""

    def __init__(self, session: boto3.Session, region: str) -> None:
        self.session = session
        self.region = region
        self.client: Callable[[str], Any] = cache(partial(session.client, region_name=region))

    @property
    def ec2(self) -> Any:
        """EC2."""
        return self.client("ec2")

    @property
    def s3(self) -> Any:
        """S3."""
        return self.client("s3")


class _Ec2Kind(NamedTuple):
    """A kind of EC2's: how it is listed (with a JMESPath to its items) and removed."""

    name: str
    method: str
    items: str
    key: str
    remove: Callable[[Any, str, dict[str, Any]], object]
    billable: bool = False
    gone: Sequence[str] = ()


def _by(method: str, argument: str, *, several: bool = False) -> Callable[[Any, str, dict[str, Any]], object]:
    """A removal that takes nothing but the id."""
    return lambda ec2, name, _item: getattr(ec2, method)(**{argument: [name] if several else name})


def _release(ec2: Any, address: str, item: dict[str, Any]) -> None:
    if "AssociationId" in item:
        ec2.disassociate_address(AssociationId=item["AssociationId"])
    ec2.release_address(AllocationId=address)


def _drop_table(ec2: Any, table: str, item: dict[str, Any]) -> None:
    for association in item.get("Associations", []):
        if not association.get("Main"):
            ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    ec2.delete_route_table(RouteTableId=table)


def _drop_gateway(ec2: Any, gateway: str, item: dict[str, Any]) -> None:
    for attachment in item.get("Attachments", []):
        ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=attachment["VpcId"])
    ec2.delete_internet_gateway(InternetGatewayId=gateway)


# In the order in which they can go; what is still in use is tried again.
# fmt: off
_EC2 = (
    _Ec2Kind("instance", "describe_instances", "Reservations[].Instances[]", "InstanceId",
             _by("terminate_instances", "InstanceIds", several=True), billable=True, gone=("terminated",)),
    _Ec2Kind("NAT gateway", "describe_nat_gateways", "NatGateways[]", "NatGatewayId",
             _by("delete_nat_gateway", "NatGatewayId"), billable=True, gone=("deleted", "failed")),
    _Ec2Kind("VPC endpoint", "describe_vpc_endpoints", "VpcEndpoints[]", "VpcEndpointId",
             _by("delete_vpc_endpoints", "VpcEndpointIds", several=True), billable=True, gone=("deleted",)),
    _Ec2Kind("Elastic IP", "describe_addresses", "Addresses[]", "AllocationId", _release, billable=True),
    _Ec2Kind("volume", "describe_volumes", "Volumes[]", "VolumeId",
             _by("delete_volume", "VolumeId"), billable=True, gone=("deleted",)),
    _Ec2Kind("network interface", "describe_network_interfaces", "NetworkInterfaces[]", "NetworkInterfaceId",
             _by("delete_network_interface", "NetworkInterfaceId")),
    _Ec2Kind("launch template", "describe_launch_templates", "LaunchTemplates[]", "LaunchTemplateId",
             _by("delete_launch_template", "LaunchTemplateId")),
    _Ec2Kind("placement group", "describe_placement_groups", "PlacementGroups[]", "GroupName",
             _by("delete_placement_group", "GroupName"), gone=("deleted",)),
    _Ec2Kind("key pair", "describe_key_pairs", "KeyPairs[]", "KeyName", _by("delete_key_pair", "KeyName")),
    _Ec2Kind("security group", "describe_security_groups", "SecurityGroups[]", "GroupId",
             _by("delete_security_group", "GroupId")),
    _Ec2Kind("route table", "describe_route_tables", "RouteTables[]", "RouteTableId", _drop_table),
    _Ec2Kind("subnet", "describe_subnets", "Subnets[]", "SubnetId", _by("delete_subnet", "SubnetId")),
    _Ec2Kind("internet gateway", "describe_internet_gateways", "InternetGateways[]", "InternetGatewayId",
             _drop_gateway),
    _Ec2Kind("VPC", "describe_vpcs", "Vpcs[]", "VpcId", _by("delete_vpc", "VpcId")),
)
# fmt: on

_Removal = tuple[Found, Callable[[], object]]


def _pages(client: Any, method: str, items: str, **arguments: Any) -> Iterator[Any]:
    """The items of a list, over all of its pages."""
    if client.can_paginate(method):
        yield from client.get_paginator(method).paginate(**arguments).search(items)
    else:
        yield from jmespath.search(items, getattr(client, method)(**arguments)) or []


def _tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags") or item.get("TagSet") or []}


def _found(kind: str, name: str, place: Place, tags: dict[str, str], *, billable: bool) -> Found:
    return Found(kind, name, place.region, tags[TAG], tags.get("cos:owner", ""), tags.get(DEADLINE_TAG, ""), billable)


def _is_wanted(tags: dict[str, str], cluster: str | None) -> bool:
    return TAG in tags and cluster in (None, tags[TAG])


def _of_ec2(place: Place, cluster: str | None) -> Iterator[_Removal]:
    wanted = {"Name": "tag-key", "Values": [TAG]} if cluster is None else {"Name": f"tag:{TAG}", "Values": [cluster]}
    for kind in _EC2:
        filters = "Filter" if kind.name == "NAT gateway" else "Filters"
        for item in _pages(place.ec2, kind.method, kind.items, **{filters: [wanted]}):
            state = item.get("State")
            state = state.get("Name") if isinstance(state, dict) else state
            tags = _tags(item)
            if state in kind.gone or not _is_wanted(tags, cluster):
                continue
            name = item[kind.key]
            billable = kind.billable and item.get("VpcEndpointType") != "Gateway"  # that one is free
            found = _found(kind.name, name, place, tags, billable=billable)
            yield found, partial(kind.remove, place.ec2, name, item)


def _of_services(place: Place, cluster: str | None) -> Iterator[_Removal]:
    secrets = place.client("secretsmanager")
    for item in _pages(secrets, "list_secrets", "SecretList[]", Filters=[{"Key": "tag-key", "Values": [TAG]}]):
        tags = _tags(item)
        if _is_wanted(tags, cluster):
            remove = partial(secrets.delete_secret, SecretId=item["ARN"], ForceDeleteWithoutRecovery=True)
            yield _found("secret", item["Name"], place, tags, billable=True), remove
    scheduler = place.client("scheduler")
    for item in _pages(scheduler, "list_schedule_groups", "ScheduleGroups[]"):
        if item["Name"] != "default" and item["Name"].startswith(_prefix(cluster)):
            tags = _tags(scheduler.list_tags_for_resource(ResourceArn=item["Arn"]))
            if _is_wanted(tags, cluster):
                remove = partial(scheduler.delete_schedule_group, Name=item["Name"])
                yield _found("schedule group", item["Name"], place, tags, billable=False), remove


def _of_iam(place: Place, cluster: str | None) -> Iterator[_Removal]:
    """Profiles and roles that were made for this region's cluster; others' names are not asked for their tags."""
    iam = place.client("iam")
    for item in _pages(iam, "list_instance_profiles", "InstanceProfiles[]"):
        name = item["InstanceProfileName"]
        if name.startswith(_prefix(cluster)):
            tags = _tags(iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"])
            if _is_wanted(tags, cluster) and tags.get(REGION_TAG) == place.region:
                remove = partial(_drop_profile, iam, name, item)
                yield _found("instance profile", name, place, tags, billable=False), remove
    for item in _pages(iam, "list_roles", "Roles[]"):
        name = item["RoleName"]
        if name.startswith(_prefix(cluster)):
            tags = _tags(iam.list_role_tags(RoleName=name))
            if _is_wanted(tags, cluster) and tags.get(REGION_TAG) == place.region:
                yield _found("role", name, place, tags, billable=False), partial(_drop_role, iam, name)


def _of_budgets(place: Place, cluster: str | None, tell: Tell) -> Iterator[_Removal]:
    """Budgets that were made for this region's cluster."""
    account = place.client("sts").get_caller_identity()["Account"]
    budgets = place.session.client("budgets", region_name="us-east-1")
    try:
        items = list(_pages(budgets, "describe_budgets", "Budgets[]", AccountId=account))
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("AccessDenied"):
            raise
        tell("budgets were not looked for: you lack the permission budgets:ViewBudget")
        return
    for item in items:
        # What it counts and its name tell cluster and region: one question fewer than its tags.
        counted = [value.split("$")[1] for value in item.get("CostFilters", {}).get("TagKeyValue", []) if "$" in value]
        tags, name = {TAG: counted[0]} if counted else {}, item["BudgetName"]
        if _is_wanted(tags, cluster) and name.startswith(f"{tags[TAG]}-budget-{place.region}-"):
            remove = partial(budgets.delete_budget, AccountId=account, BudgetName=name)
            yield _found("budget", name, place, tags, billable=False), remove


def _prefix(cluster: str | None) -> str:
    return f"{cluster}-" if cluster else ""


def _drop_profile(iam: Any, name: str, item: dict[str, Any]) -> None:
    for role in item["Roles"]:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
    iam.delete_instance_profile(InstanceProfileName=name)


def _drop_role(iam: Any, name: str) -> None:
    for policy in _pages(iam, "list_role_policies", "PolicyNames[]", RoleName=name):
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def buckets(place: Place, cluster: str | None) -> list[Found]:
    """Buckets that bear the tag, in this region."""
    found = []
    for name in _pages(place.s3, "list_buckets", "Buckets[].Name"):
        if "-data" not in name or not name.startswith(_prefix(cluster)):
            continue
        try:
            tags = _tags(place.s3.get_bucket_tagging(Bucket=name))
            region = place.s3.get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1"
        except ClientError:  # without tags, or a stranger's
            continue
        if region == place.region and _is_wanted(tags, cluster):
            found.append(_found("bucket", name, place, tags, billable=True))
    return found


def present_bucket(place: Place, cluster: str) -> str | None:
    """Of the buckets that a cluster's lives left the one of the present life; None where it cannot be told."""
    names = [found.id for found in buckets(place, cluster)]
    live = {entry["InstanceId"] for entry in instances(place, cluster)}
    its_own = (name for name in names if live & _reported(place, name))
    return next(its_own, names[0] if len(names) == 1 else None)


def _reported(place: Place, bucket: str) -> set[str]:
    """The nodes that wrote to a bucket that they have booted."""
    keys = _pages(place.s3, "list_objects_v2", "Contents[].Key", Bucket=bucket, Prefix="nodes/")
    return {key.split("/")[1] for key in keys if key and key.endswith("/status.json")}


def delete_bucket(place: Place, name: str) -> None:
    """Remove a bucket with all that is in it, old versions too."""
    _drop_objects(place, name, "")
    place.s3.delete_bucket(Bucket=name)


def drop_sent(place: Place, cluster: str, bucket: str | None) -> None:
    """Remove from a bucket that is kept what the cluster's jobs were sent: no node comes for it any more."""
    if bucket:
        with contextlib.suppress(ClientError):  # it ends by the bucket's own rules, and the cluster has ended
            _drop_objects(place, bucket, f"{SENT_PREFIX}/{cluster}/")


def _drop_objects(place: Place, bucket: str, prefix: str) -> None:
    for page in place.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        if objects:
            place.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})


def _removals(place: Place, cluster: str | None, tell: Tell = lambda _: None) -> Iterator[_Removal]:
    for part in (_of_ec2, _of_services, _of_iam):
        yield from part(place, cluster)
    yield from _of_budgets(place, cluster, tell)


def find(place: Place, cluster: str | None = None) -> list[Found]:
    """All that bears the tag of a cluster, or of any, buckets apart: they hold the models and are kept."""
    return [found for found, _ in _removals(place, cluster)]


def remove(place: Place, cluster: str, tell: Tell, seconds: float = REMOVE_SECONDS) -> list[Found]:
    """Remove all that bears a cluster's tag, buckets apart, and look again until nothing is found.

    Returns:
        What is left when the seconds are over, each with what hinders it.
    """
    deadline, tell_once = time.monotonic() + seconds, cache(tell)
    while True:
        left = []
        for found, act in _removals(place, cluster, tell_once):
            tell_once(f"removing {found.kind} {found.id}")
            note = ""
            try:
                act()
            except ClientError as error:  # in use, or on its way out
                note = error.response["Error"]["Code"]
            left.append(found._replace(note=note))
        if not left or time.monotonic() > deadline:
            return left
        if any(found.note for found in left):  # the others are gone at the next look
            time.sleep(_POLL_SECONDS)


# What belongs to an instance lives and ends with it; no state has it.
_PARTS = ("network interface", "volume")


def remove_orphans(place: Place, cluster: str, known: Collection[str]) -> list[Found]:
    """Remove what bears a cluster's tag and is none of these, but for what is in use, and buckets that hold something.

    Args:
        place: The region.
        cluster: The cluster.
        known: Ids (of a secret its ARN or its name) that are to stay.

    Returns:
        What was removed.
    """
    orphans = [(found, act) for found, act in _removals(place, cluster) if found.kind not in _PARTS]
    orphans += [(found, partial(place.s3.delete_bucket, Bucket=found.id)) for found in buckets(place, cluster)]
    orphans = [pair for pair in orphans if not any(pair[0].id == name or f":{pair[0].id}" in name for name in known)]
    removed: list[Found] = []
    for _ in range(2):  # what hangs on another one goes the second time
        for found, act in [pair for pair in orphans if pair[0] not in removed]:
            try:
                act()
            except ClientError:  # of another's, or in use
                continue
            removed.append(found)
    return removed


def instances(place: Place, cluster: str, states: Sequence[str] = _LIVE) -> list[dict[str, Any]]:
    """The cluster's instances in these states, as EC2 describes them."""
    filters = [{"Name": f"tag:{TAG}", "Values": [cluster]}, {"Name": "instance-state-name", "Values": list(states)}]
    return list(_pages(place.ec2, "describe_instances", "Reservations[].Instances[]", Filters=filters))


def refuse_if_busy(place: Place, cluster: str, bucket: str | None) -> None:
    """Refuse to touch a cluster that somebody uses.

    Raises:
        RefusedError: Its master wrote within the last minutes that an application runs or somebody is logged in.
    """
    word = read_json(place, bucket, activity_key(cluster)) or {}
    if word.get("busy") and time.time() - float(word.get("at", 0)) < FRESH_SECONDS and instances(place, cluster):
        raise RefusedError(f"A job runs on {cluster}, or somebody is logged in: end that first, or give --force.")


def end_nodes(
    place: Place,
    cluster: str,
    bucket: str | None,
    tell: Tell,
    seconds: float = SAVE_SECONDS,
    *,
    only: Collection[str] | None = None,
) -> None:
    """Have the nodes save logs and models and end themselves; those that do not within the seconds are left running.

    Their guard reads the deadline from the instance's tag: one that is now makes it save and shut down. This needs no
    way into the nodes. A node that never reported has no guard to wait for. `only` has the ids of those that are meant.
    """
    running = {entry["InstanceId"] for entry in instances(place, cluster, ("running",))}
    running = running if only is None else running.intersection(only)
    asked = running & _reported(place, bucket) if running and bucket else set[str]()
    if not asked:
        return
    tell(f"{len(asked)} nodes save logs and models to {bucket} and end (up to {seconds:.0f} s)")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    place.ec2.create_tags(Resources=sorted(asked), Tags=[{"Key": DEADLINE_TAG, "Value": now}])
    deadline = time.monotonic() + seconds
    while {entry["InstanceId"] for entry in instances(place, cluster, ("running",))} & asked:
        if time.monotonic() > deadline:
            tell(f"not all nodes ended within {seconds:.0f} s: they are terminated as they are")
            return
        time.sleep(min(_POLL_SECONDS, seconds / 10))


def read_json(place: Place, bucket: str | None, key: str) -> Any:
    """An object's JSON; None where there is none."""
    try:
        return json.loads(place.s3.get_object(Bucket=bucket, Key=key)["Body"].read()) if bucket else None
    except (ClientError, ValueError):
        return None


def activity_key(cluster: str) -> str:
    """The object in which the master says whether the cluster is used."""
    return f"nodes/{cluster}/activity.json"


def meter_key(cluster: str) -> str:
    """The object that has the cluster's runs, for their cost."""
    return f"cost/{cluster}/meter.json"


def read_meter(place: Place, cluster: str, bucket: str | None) -> list[Meter]:
    """What the cluster's bucket has of its runs."""
    return [Meter(*entry) for entry in read_json(place, bucket, meter_key(cluster)) or []]


def write_meter(place: Place, cluster: str, bucket: str, meters: Sequence[Meter]) -> None:
    """Keep the runs."""
    place.s3.put_object(Bucket=bucket, Key=meter_key(cluster), Body=json.dumps(meters).encode())


def closed(meters: Sequence[Meter], ended: dict[str, str] | None = None) -> list[Meter]:
    """The runs, with ends for those that run: for all of them now, or by id as `ended` has it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ends = {meter.id: now for meter in meters} if ended is None else ended
    return [meter if meter.end else meter._replace(end=ends.get(meter.id)) for meter in meters]


def cost(meters: Sequence[Meter]) -> str:
    """What the runs cost, in words."""
    if not meters:
        return "unknown: nothing was noted of its runs"
    now = datetime.now(UTC)
    usd = sum(meter.usd * meter.hours(now) for meter in meters if meter.usd is not None)
    unknown = sorted({meter.what for meter in meters if meter.usd is None})
    return f"${usd:,.2f}" + (f" and what {', '.join(unknown)} cost, whose price is not known" if unknown else "")


def regions(session: boto3.Session, region: str | None, *, everywhere: bool) -> list[str]:
    """The regions to look into.

    Raises:
        RefusedError: None is named.
    """
    home = region or session.region_name
    if everywhere:
        listed = session.client("ec2", region_name=home or "us-east-1").describe_regions()["Regions"]
        return sorted(entry["RegionName"] for entry in listed)
    if home is None:
        raise RefusedError("No region is set: give --region, or --all-regions.")
    return [home]


def find_everywhere(session: boto3.Session, names: Sequence[str], cluster: str | None) -> list[Found]:
    """What bears the tag in these regions, buckets too; what belongs to no region is told once."""
    # Clients are made here: boto3's making of them is not safe among threads.
    places = [Place(session, name) for name in names]
    for place in places:
        for service in ("ec2", "s3", "secretsmanager", "scheduler", "iam", "sts"):
            place.client(service)
    with ThreadPoolExecutor(_REGIONS_AT_ONCE) as threads:
        parts = threads.map(lambda place: [*find(place, cluster), *buckets(place, cluster)], places)
        return list({(entry.kind, entry.id): entry for entries in parts for entry in entries}.values())


def teardown(place: Place, cluster: str, tell: Tell, *, force: bool, save_seconds: float = SAVE_SECONDS) -> list[Found]:
    """End a cluster in one region, its buckets apart, and tell what it cost.

    Returns:
        What is left; nothing, where all went well.

    Raises:
        RefusedError: Somebody uses it.
    """
    bucket = present_bucket(place, cluster)
    if not force:
        refuse_if_busy(place, cluster, bucket)
    end_nodes(place, cluster, bucket, tell, save_seconds)
    left = remove(place, cluster, tell)
    drop_sent(place, cluster, bucket)
    meters = closed(read_meter(place, cluster, bucket))
    if bucket is not None and meters and not left:
        write_meter(place, cluster, bucket, meters)
    tell(f"{cluster} cost {cost(meters)}")
    return left


def _run(options: argparse.Namespace) -> int:
    session = boto3.Session()
    names = regions(session, options.region, everywhere=options.all_regions)
    found = find_everywhere(session, names, options.cluster)
    for entry in found:
        print(f"{entry.region}  {entry.kind:18} {entry.id}")
    if options.dry_run:
        return 0
    left: list[Found] = []
    for name in sorted({entry.region for entry in found}):
        place = Place(session, name)
        left += teardown(place, options.cluster, print, force=options.force)
        for bucket in buckets(place, options.cluster):
            if options.delete_bucket:
                delete_bucket(place, bucket.id)
            else:
                print(f"bucket {bucket.id} is kept, with logs and models: --delete-bucket removes it")
    for entry in left:
        print(f"still there: {entry.kind} {entry.id} in {entry.region} {entry.note}", file=sys.stderr)
    if not found and not options.all_regions:
        print(f"nothing of {options.cluster} is in {names[0]}: --all-regions looks everywhere")
    elif not left:
        print(f"nothing of {options.cluster} is left in {', '.join(names)}")
    return int(bool(left))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="teardown.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cluster", help="its name")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--region", help="AWS region; the profile's by default")
    where.add_argument("--all-regions", action="store_true", help="look everywhere")
    parser.add_argument("--force", action="store_true", help="though a job runs")
    parser.add_argument("--dry-run", action="store_true", help="tell what there is, and leave it")
    parser.add_argument("--delete-bucket", action="store_true", help="remove its buckets too, with logs and models")
    try:
        return _run(parser.parse_args(arguments))
    except (RefusedError, ClientError, BotoCoreError) as error:
        print(f"teardown: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
