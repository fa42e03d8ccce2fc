import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from infra import policies
from infra.policies import POLICIES, Resource
from tests.infra.plans import plan_of, resources

Change = Callable[[dict[str, Any]], object]
Plan = Callable[[], list[Resource]]
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"


def changed(preset: str, type_: str, change: Change) -> Plan:
    """A good plan with one thing changed in each resource of a type; made when its test runs."""

    def made() -> list[Resource]:
        planned = []
        for resource in resources(plan_of(preset)):
            props = copy.deepcopy(dict(resource.props))
            if resource.type == type_:
                change(props)
            planned.append(Resource(resource.type, resource.name, props))
        return planned

    return made


def without(preset: str, *types: str) -> Plan:
    return lambda: [resource for resource in resources(plan_of(preset)) if resource.type not in types]


def template(change: Change) -> Plan:
    return changed("cpu-small", policies.TEMPLATE, change)


def interfaces(change: Callable[[list[dict[str, Any]]], object]) -> Plan:
    def change_workers(props: dict[str, Any]) -> None:
        if "networkInterfaces" in props:
            change(props["networkInterfaces"])

    return changed("efa-hpc", policies.TEMPLATE, change_workers)


def bought() -> list[Resource]:
    block = Resource("aws:ec2/capacityBlockReservation:CapacityBlockReservation", "block", {"tags": {}})
    return [*resources(plan_of("cpu-small")), block]


def untargeted(action: str) -> Change:
    """Schedules that do nothing where they would do this."""

    def change(props: dict[str, Any]) -> None:
        if props["target"]["arn"].endswith(action):
            props["target"]["arn"] = "arn:aws:scheduler:::aws-sdk:ec2:createTags"

    return change


def with_endpoint() -> list[Resource]:
    tags = {"cos:cluster": "example", "cos:owner": "ada", "cos:deadline": "2099-01-01T00:00:00Z"}
    endpoint = Resource(policies.ENDPOINT, "ssm", {"vpcEndpointType": "Interface", "tags": tags})
    return [*resources(plan_of("cpu-small")), endpoint]


def allowing(**statement: Any) -> Plan:
    document = json.dumps({"Statement": [{"Effect": "Allow", "Resource": "*", **statement}]})
    return changed("cpu-small", ROLE_POLICY, lambda props: props.update(policy=document))


BROKEN = [
    ("no-open-ingress", changed("cpu-small", policies.INGRESS, lambda props: props.update(cidrIpv4="0.0.0.0/0"))),
    ("no-open-ingress", changed("cpu-small", policies.INGRESS, lambda props: props.update(cidrIpv6="::/0"))),
    ("no-open-ingress", changed("cpu-small", policies.GROUP, lambda props: props.update(ingress=[{"fromPort": 22}]))),
    ("imds-v2", template(lambda props: props["metadataOptions"].update(httpTokens="optional"))),
    ("imds-v2", template(lambda props: props.pop("metadataOptions"))),
    ("encrypted-volumes", template(lambda props: props["blockDeviceMappings"][0]["ebs"].update(encrypted="false"))),
    ("encrypted-volumes", template(lambda props: props.pop("blockDeviceMappings"))),
    ("tagged", changed("cpu-small", "aws:ec2/vpc:Vpc", lambda props: props["tags"].pop("cos:deadline"))),
    ("tagged", changed("cpu-small", policies.INSTANCE, lambda props: props["tags"].pop("cos:role"))),
    ("ends-by-itself", template(lambda props: props.update(instanceInitiatedShutdownBehavior="stop"))),
    ("ends-by-itself", template(lambda props: props.update(userData=""))),
    ("ends-by-itself", without("cpu-small", policies.SCHEDULE)),
    ("ends-by-itself", changed("efa-a100", policies.SCHEDULE, untargeted("deleteNatGateway"))),
    ("ends-by-itself", with_endpoint),
    ("efa-layout", interfaces(lambda cards: cards.pop())),
    ("efa-layout", interfaces(lambda cards: cards[0].update(interfaceType="efa-only"))),
    ("efa-layout", interfaces(lambda cards: cards[0].update(associatePublicIpAddress="true"))),
    ("efa-layout", changed("efa-hpc", policies.TEMPLATE, lambda props: props.update(instanceType="c7i.xlarge"))),
    ("efa-group", without("efa-hpc", policies.EGRESS)),
    ("efa-group", changed("efa-hpc", policies.INGRESS, lambda props: props.update(ipProtocol="tcp"))),
    ("master-on-demand", template(lambda props: props.update(instanceMarketOptions={"marketType": "spot"}))),
    ("nothing-bought", bought),
    ("private-buckets", without("cpu-small", "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock")),
    ("private-buckets", without("cpu-small", "aws:s3/bucketVersioning:BucketVersioning")),
    ("least-privilege", allowing(Action="s3:*")),
    ("least-privilege", allowing(Action=["ec2:TerminateInstances"])),
]


@pytest.mark.parametrize(("name", "planned"), BROKEN)
def test_a_policy_finds_what_breaks_it(name: str, planned: Plan) -> None:
    (policy,) = [policy for policy in POLICIES if policy.name == name]
    problems = [problem for _, problem in policy.check(planned())]
    assert problems
    assert all(": " in problem or problem.startswith("lays out") for problem in problems), "each names the remedy"


def test_each_policy_is_broken_by_a_case() -> None:
    assert {name for name, _ in BROKEN} == {policy.name for policy in POLICIES}
