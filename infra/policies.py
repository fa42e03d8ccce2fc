"""What no plan may break, whatever its configuration: one rule, one small function, and a message with the remedy.

The functions know nothing of Pulumi, so that they judge the mocks' plan in a test and a stack's preview in the policy
pack alike.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import efa
from infra.instances import UnknownTypeError, facts

INSTANCE = "aws:ec2/instance:Instance"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
BUCKET = "aws:s3/bucket:Bucket"
SCHEDULE = "aws:scheduler/schedule:Schedule"
NAT = "aws:ec2/natGateway:NatGateway"
ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"

# AWS takes no tags for these, which live and end with what they belong to.
UNTAGGED = frozenset(
    {
        "aws:ec2/route:Route",
        "aws:ec2/routeTableAssociation:RouteTableAssociation",
        "aws:iam/rolePolicy:RolePolicy",
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
        "aws:s3/bucketPolicy:BucketPolicy",
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        "aws:s3/bucketVersioning:BucketVersioning",
        SCHEDULE,
    }
)
_TAGS = ("cos:cluster", "cos:owner", "cos:deadline")
_BUYS = ("aws:ec2/capacityBlockReservation:CapacityBlockReservation", "aws:ec2/capacityReservation:CapacityReservation")
# What bills by the hour until it is ended, and by which of EC2's actions it is.
_ENDS = {INSTANCE: "terminateInstances", NAT: "deleteNatGateway", ENDPOINT: "deleteVpcEndpoints"}
_WHOLE_INTERNET = ("0.0.0.0/0", "::/0")
# The SSM agent's actions, for which IAM knows no resource.
_ANY_RESOURCE = ("ssmmessages:", "ec2messages:", "ssm:UpdateInstanceInformation")


@dataclass(frozen=True)
class Resource:
    """A resource as a policy sees it: type token, logical name, inputs in camel case."""

    type: str
    name: str
    props: Mapping[str, Any]


@dataclass(frozen=True)
class Policy:
    """A rule over a whole plan.

    Attributes:
        name: As `pulumi` shows it.
        description: What it asks for.
        check: Yields the resource and what is wrong with it.
    """

    name: str
    description: str
    check: Callable[[Sequence[Resource]], Iterator[tuple[Resource, str]]]


def no_open_ingress(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """No rule lets the whole internet in, and no group has rules of its own."""
    for resource in plan:
        if resource.type == INGRESS:
            sources = (resource.props.get("cidrIpv4"), resource.props.get("cidrIpv6"))
            if any(source in _WHOLE_INTERNET for source in sources):
                yield resource, "lets the whole internet in: name one address, or use ssm"
        if resource.type == GROUP and (resource.props.get("ingress") or resource.props.get("egress")):
            yield resource, "has rules inside: make each a SecurityGroupIngressRule or SecurityGroupEgressRule"


def imds_v2(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Instance metadata only by session token."""
    for resource in plan:
        if resource.type == TEMPLATE or (resource.type == INSTANCE and "launchTemplate" not in resource.props):
            options = resource.props.get("metadataOptions") or {}
            if options.get("httpTokens") != "required":
                yield resource, "serves IMDSv1: set metadata_options.http_tokens to required"


def encrypted_volumes(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Every volume of a launch template is encrypted, the root volume among them."""
    for resource in plan:
        if resource.type == TEMPLATE:
            mappings = resource.props.get("blockDeviceMappings") or []
            volumes = [mapping["ebs"] for mapping in mappings if "ebs" in mapping]
            if not volumes or any(str(volume.get("encrypted")).lower() != "true" for volume in volumes):
                yield resource, "has a volume in clear: set ebs.encrypted for each block device"


def tagged(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Cluster, owner and deadline on everything that takes tags; role and group on nodes."""
    for resource in plan:
        if resource.type in UNTAGGED or not resource.type.startswith("aws:"):
            continue
        wanted = (*_TAGS, "cos:role", "cos:group") if resource.type == INSTANCE else _TAGS
        missing = [tag for tag in wanted if not (resource.props.get("tags") or {}).get(tag)]
        if missing:
            yield resource, f"has no tag {', '.join(missing)}: take its tags from Labels.tags"


def ends_by_itself(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """A node's user data sets its end, a shutdown terminates it, and schedules outside end it and what else bills."""
    for resource in plan:
        if resource.type == TEMPLATE:
            if resource.props.get("instanceInitiatedShutdownBehavior") != "terminate":
                yield resource, "stops at a shutdown: set instance_initiated_shutdown_behavior to terminate"
            if "shutdown -P +" not in _decoded(resource.props.get("userData") or ""):
                yield resource, "has no TTL: render its user data by bootstrap.node.user_data"
    actions = [str(resource.props["target"]["arn"]) for resource in plan if resource.type == SCHEDULE]
    for kind, action in _ENDS.items():
        schedules = sum(arn.endswith(f":{action}") for arn in actions)
        # The endpoints of S3 and DynamoDB are gateways, and free.
        billed = [one for one in plan if one.type == kind and one.props.get("vpcEndpointType") != "Gateway"]
        for resource in billed[schedules:]:
            yield resource, "is ended by no schedule: hand it to Guard"


def efa_layout(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Interfaces are as the instance type allows, and several of them come without public addresses."""
    for resource in plan:
        interfaces = resource.props.get("networkInterfaces") or [] if resource.type == TEMPLATE else []
        if len(interfaces) > 1 and any("associatePublicIpAddress" in interface for interface in interfaces):
            yield resource, "asks for a public address on several interfaces: EC2 refuses it; use nat or endpoints"
        if any(interface["interfaceType"] != "interface" for interface in interfaces):
            yield from ((resource, problem) for problem in _misplaced(str(resource.props["instanceType"]), interfaces))


def efa_group(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """The group of EFAs lets all of its own traffic in and out by rules that name the group itself."""
    own = {
        kind: {
            rule.props["securityGroupId"]
            for rule in plan
            if rule.type == kind
            and rule.props.get("ipProtocol") == "-1"
            and rule.props.get("referencedSecurityGroupId") == rule.props["securityGroupId"]
        }
        for kind in (INGRESS, EGRESS)
    }
    for resource in plan:
        interfaces = resource.props.get("networkInterfaces") or [] if resource.type == TEMPLATE else []
        for interface in interfaces:
            groups = set(interface.get("securityGroups") or [])
            if interface["interfaceType"] != "interface" and not groups & own[INGRESS] & own[EGRESS]:
                yield resource, "has an EFA whose group has no rule to itself in and out: add both, protocol -1"
                break


def master_on_demand(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """The master is never bought on the spot market."""
    for resource in plan:
        if (resource.props.get("tags") or {}).get("cos:role") == "master" and resource.props.get(
            "instanceMarketOptions"
        ):
            yield resource, "puts the master on spot: remove instance_market_options"


def nothing_bought(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Capacity is used by its id, and never bought: destroying a capacity block gives no money back."""
    for resource in plan:
        if resource.type in _BUYS:
            yield resource, "buys capacity: buy it by hand and set the group's reservation"


def private_buckets(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """A bucket is private, encrypted, versioned, cleaned up, and answers by TLS alone."""
    wanted = {token for token in UNTAGGED if token.startswith("aws:s3/")}
    for resource in plan:
        if resource.type == BUCKET:
            # Before it exists a bucket has no name to tell two by: as many settings as buckets.
            buckets = sum(other.type == BUCKET for other in plan)
            for token in sorted(wanted):
                if sum(other.type == token for other in plan) < buckets:
                    yield resource, f"has no {token.rsplit(':', 1)[1]}: make buckets by Storage"


def least_privilege(plan: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """No role may do everything, or anything to every resource."""
    for resource in plan:
        if resource.type == "aws:iam/rolePolicy:RolePolicy":
            for statement in json.loads(str(resource.props["policy"]))["Statement"]:
                yield from ((resource, problem) for problem in _too_wide(statement))


def _too_wide(statement: Mapping[str, Any]) -> Iterator[str]:
    if statement["Effect"] != "Allow":
        return
    actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
    for action in actions:
        if action.endswith("*"):
            yield f"allows {action}: list the actions"
        if "*" in resources and not action.startswith(_ANY_RESOURCE):
            yield f"allows {action} on every resource: name the resources"


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _misplaced(instance_type: str, interfaces: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How interfaces with EFA differ from what the type takes."""
    try:
        found = facts(instance_type)
    except UnknownTypeError as error:
        yield str(error)
        return
    placed = [
        (int(interface["networkCardIndex"]), int(interface["deviceIndex"]), interface["interfaceType"])
        for interface in interfaces
    ]
    if not found.efa_interfaces:
        yield f"asks for EFA on {instance_type}, which takes none: use a larger size"
    elif placed != list(efa.layout(found, efa=True)):
        yield f"lays out the interfaces of {instance_type} otherwise than infra.efa.layout, which says what EC2 takes"


def _decoded(user_data: str) -> str:
    try:
        return base64.b64decode(user_data, validate=True).decode(errors="replace")
    except binascii.Error:
        return user_data


POLICIES = tuple(
    Policy(check.__name__.replace("_", "-"), str(check.__doc__), check)
    for check in (
        no_open_ingress,
        imds_v2,
        encrypted_volumes,
        tagged,
        ends_by_itself,
        efa_layout,
        efa_group,
        master_on_demand,
        nothing_bought,
        private_buckets,
        least_privilege,
    )
)
