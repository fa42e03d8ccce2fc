"""The stand-in provider is as strict as AWS and its real provider are, or the other tests here would prove little."""

import base64
import inspect
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest
from botocore.exceptions import ClientError
from pulumi.automation import OpType

from tests.fixtures.pulumi_aws.instances import Instance
from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.pulumi_aws.kinds import Cloud, Kind, Refused
from tests.fixtures.pulumi_aws.ledger import Fault
from tests.fixtures.pulumi_aws.network import Subnet, Vpc
from tests.fixtures.pulumi_engine import Engine, changes, image
from tests.infra.engine.apart import failing_up

PLUGIN = Path(__file__).resolve().parents[2] / "fixtures" / "pulumi_aws"


NESTED_TOO = ("BucketVersioning", "BucketServerSideEncryptionConfiguration")


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


@pytest.mark.parametrize("token", sorted(Kind.registry))
def test_inputs_are_those_of_the_sdk(token: str) -> None:
    module, name = token.split(":")[1].split("/", maxsplit=1)[0], token.split(":")[2]
    # The SDK names a resource's inputs otherwise where a nested type has their name.
    made_of = getattr(getattr(aws, module), f"{name}{'InitArgs' if name in NESTED_TOO else 'Args'}")
    arguments = inspect.signature(made_of.__init__).parameters
    inputs = {camel(argument): each.default is each.empty for argument, each in list(arguments.items())[1:]}
    kind = Kind.registry[token]

    assert {name for name, required in inputs.items() if required} <= set(kind.required)
    named = {*kind.required, *kind.replaces, *(name for group in kind.one_of for name in group)}
    assert named | ({kind.name_input} if kind.name_input else set()) <= inputs.keys()
    assert kind.taggable == ("tags" in inputs)


@pytest.fixture(scope="module")
def cloud(moto_address: str) -> Cloud:
    return Cloud(moto_address, "us-east-1")


class Site:
    """A subnet and an image to launch in and from."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        vpc = Vpc(cloud).create({"cidrBlock": "10.9.0.0/16", "tags": {}})
        place = {"vpcId": vpc, "cidrBlock": "10.9.0.0/20", "availabilityZone": "us-east-1a", "tags": {}}
        self.subnet = Subnet(cloud).create(place)
        self.made = [(Subnet(cloud), self.subnet), (Vpc(cloud), vpc)]
        self.image = image(cloud)

    def launch(self, interfaces: list[dict[str, Any]] | None = None, **more: Any) -> str:
        """Launch an instance from a template with these interfaces; returns its ID."""
        kind = Kind.registry["aws:ec2/launchTemplate:LaunchTemplate"](self.cloud)
        name = f"tests-{os.urandom(4).hex()}"
        own = {"networkInterfaces": [{"subnetId": self.subnet, **each} for each in interfaces]} if interfaces else {}
        inputs = {"name": name, "imageId": self.image, "instanceType": "p4d.24xlarge", "tags": {}} | own | more
        template = kind.create(inputs)
        try:
            return Instance(self.cloud).create({"launchTemplate": {"id": template, "version": "$Latest"}, "tags": {}})
        finally:
            kind.delete(template, {})


@pytest.fixture(scope="module")
def site(cloud: Cloud) -> Iterator[Site]:
    made = Site(cloud)
    yield made
    for kind, physical_id in made.made:
        kind.delete(physical_id, {})


def card(index: int, device: int = 0, kind: str = "efa", **more: Any) -> dict[str, Any]:
    return {"networkCardIndex": index, "deviceIndex": device, "interfaceType": kind, **more}


FOUR = [card(0), card(1, 1), card(2, 1), card(3, 1)]


@pytest.mark.parametrize(
    ("interfaces", "more", "code"),
    [
        pytest.param([*FOUR, card(0, 1)], {}, "AttachmentLimitExceeded", id="more EFAs than the type has"),
        pytest.param([card(0), card(0, 1)], {}, "InvalidParameterCombination", id="two EFAs on a card"),
        pytest.param([card(0), card(4, 1)], {}, "InvalidNetworkCardIndex", id="a card that is not there"),
        pytest.param([card(0), card(1, 1), card(1, 1)], {}, "InvalidParameterValue", id="two at one place"),
        pytest.param([card(1, 1)], {}, "InvalidParameterValue", id="no primary interface"),
        pytest.param([card(0, kind="efa-only")], {}, "InvalidParameterCombination", id="efa-only as primary"),
        pytest.param(
            [card(0, associatePublicIpAddress="true"), card(1, 1)],
            {},
            "InvalidParameterCombination",
            id="public address",
        ),
        pytest.param([card(0)], {"instanceType": "g6.xlarge"}, "Unsupported", id="a type without EFA"),
        pytest.param(None, {"instanceType": "p99.large"}, "InvalidInstanceType", id="an unknown type"),
        pytest.param(None, {"imageId": "ami-0"}, "InvalidAMIID.NotFound", id="an unknown image"),
        pytest.param(None, {"instanceType": "m7g.large"}, "InvalidParameterValue", id="an image of another processor"),
        pytest.param(
            None,
            {"instanceType": "hpc7a.96xlarge", "instanceMarketOptions": {"marketType": "spot"}},
            "Unsupported",
            id="spot of a type without",
        ),
        pytest.param(
            None,
            {"instanceMarketOptions": {"marketType": "capacity-block"}},
            "InvalidParameterCombination",
            id="a capacity block that is not named",
        ),
        pytest.param(
            None,
            {"placement": {"groupName": "nowhere"}},
            "InvalidPlacementGroup.Unknown",
            id="an unknown placement group",
        ),
        pytest.param(
            None,
            {"instanceType": "t3.small", "placement": {"groupName": "nowhere"}},
            "InvalidParameterCombination",
            id="a placement group of a type without",
        ),
        pytest.param(
            None, {"iamInstanceProfile": {"name": "nobody"}}, "InvalidParameterValue", id="an unknown instance profile"
        ),
        pytest.param(
            [card(0, kind="interface")], {"instanceType": "hpc7a.96xlarge"}, "Unsupported", id="a zone without the type"
        ),
        pytest.param(
            None,
            {"userData": base64.b64encode(b"#" * 16_385).decode()},
            "InvalidParameterValue",
            id="too much user data",
        ),
    ],
)
def test_a_launch_that_ec2_refuses(
    site: Site, interfaces: list[dict[str, Any]] | None, more: dict[str, Any], code: str
) -> None:
    with pytest.raises((Refused, ClientError), match=re.escape(code)):
        site.launch(interfaces, **more)


def test_a_launch_with_an_efa_on_each_card(site: Site) -> None:
    instance = site.launch(FOUR)
    attached = [{"Name": "attachment.instance-id", "Values": [instance]}]
    try:
        assert len(site.cloud.ec2.describe_network_interfaces(Filters=attached)["NetworkInterfaces"]) == 4
    finally:
        Instance(site.cloud).delete(instance, {})


def network(settings: dict[str, Any]) -> None:
    """A small program: a VPC with a subnet and a group, and a machine in them."""
    provider = aws.Provider("aws", region="us-east-1")
    opts = pulumi.ResourceOptions(provider=provider)
    vpc = aws.ec2.Vpc("vpc", cidr_block=settings["range"], tags={"Name": settings["name"]}, opts=opts)
    subnet = aws.ec2.Subnet(
        "subnet", vpc_id=vpc.id, cidr_block="10.8.0.0/24", availability_zone="us-east-1a", opts=opts
    )
    group = aws.ec2.SecurityGroup("group", vpc_id=vpc.id, description=settings["about"], opts=opts)
    machine = aws.ec2.Instance(
        "machine",
        ami=settings["image"],
        instance_type="m7i.large",
        subnet_id=subnet.id,
        vpc_security_group_ids=[group.id],
        opts=opts,
    )
    pulumi.export("machine", machine.id)


@pytest.fixture
def settings(engine: Engine) -> dict[str, Any]:
    return {"range": "10.8.0.0/16", "name": "one", "about": "before", "image": engine.image()}


@pytest.mark.slow
def test_updates_replacements_and_drift(engine: Engine, settings: dict[str, Any]) -> None:
    cloud = engine.cloud()
    before = inventory(cloud)
    stack = engine.stack("provider", partial(network, settings), {})
    assert changes(stack.up())["create"] == 6

    settings["name"] = "two"
    assert changes(stack.up()) == {"same": 5, "update": 1}
    settings["about"] = "after"
    engine.ledger.forget()
    assert changes(stack.up()) == {"same": 4, "replace": 1, "update": 1}, "a group's description cannot change"
    assert [call.operation for call in engine.ledger.calls()] == ["create", "update", "delete"], (
        "the group is let go of"
    )

    machine = stack.outputs()["machine"].value
    cloud.ec2.create_tags(Resources=[machine], Tags=[{"Key": "by", "Value": "hand"}])
    assert changes(stack.refresh())["update"] == 1
    assert stack.preview().change_summary[OpType.UPDATE] == 1, "drift is to be mended"
    stack.up()
    assert {"Key": "by", "Value": "hand"} not in cloud.ec2.describe_tags()["Tags"]

    stack.destroy()
    assert inventory(cloud) == before


@pytest.mark.slow
def test_a_group_in_use_is_refused_and_what_failed_can_be_removed(engine: Engine, settings: dict[str, Any]) -> None:
    cloud = engine.cloud()
    before = inventory(cloud)
    stack = engine.stack("refused", partial(network, settings), {})
    engine.ledger.fail(Fault(name="machine", moment="after", message="it never got ready"))
    assert "it never got ready" in failing_up(engine, stack, partial(network, settings))
    engine.ledger.fail()

    # By its description: the VPC has a group of its own besides, which nothing uses.
    ours = [{"Name": "description", "Values": [settings["about"]]}]
    group = cloud.ec2.describe_security_groups(Filters=ours)["SecurityGroups"][0]["GroupId"]
    with pytest.raises(Refused, match="DependencyViolation"):
        Kind.registry["aws:ec2/securityGroup:SecurityGroup"](cloud).delete(group, {})
    assert changes(stack.up()) == {"same": 5, "update": 1}, "what was made is kept"
    stack.destroy()
    assert inventory(cloud) == before


@pytest.mark.slow
def test_the_plugin_is_found_on_path(engine: Engine, settings: dict[str, Any]) -> None:
    """As the lab and the command line use it: no port is named, the engine starts the plugin itself."""
    cloud = engine.cloud()
    before = inventory(cloud)
    environment = {name: value for name, value in engine.environment.items() if name != "PULUMI_DEBUG_PROVIDERS"}
    environment["PATH"] = os.pathsep.join([str(PLUGIN), environment["PATH"]])
    environment |= {"AWS_ENDPOINT_URL": engine.address, "COS_PYTHON": sys.executable}
    started = Engine(engine.address, engine.ledger, engine.folder, environment)
    stack = started.stack("plugin", partial(network, settings), {})
    assert changes(stack.up())["create"] == 6
    stack.destroy()
    assert inventory(cloud) == before
