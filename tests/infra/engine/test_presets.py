"""Every preset through its whole life, by the real engine."""

import json
from pathlib import Path

import pytest
from pulumi.automation import OpType

from infra import presets
from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.pulumi_aws.network import NatGateway
from tests.fixtures.pulumi_engine import Engine, changes, configure
from tests.infra.engine.cluster import cluster_stack, deadline

# The one with the most kinds of resources (EFA, a placement group) stands for all where time is short.
SHORT = "efa-a100"
CASES = [pytest.param(name, marks=pytest.mark.slow if name == SHORT else pytest.mark.long) for name in presets.names()]


@pytest.mark.parametrize("preset", CASES)
def test_a_preset_from_its_plan_to_nothing_left(preset: str, engine: Engine, kit: Path) -> None:
    cloud = engine.cloud(presets.values(preset)["region"])
    before = inventory(cloud)
    stack = cluster_stack(engine, preset, kit)

    planned = stack.preview().change_summary
    assert planned.keys() == {OpType.CREATE}
    assert inventory(cloud) == before, "a preview makes nothing"

    made = stack.up()
    count = planned[OpType.CREATE]
    assert changes(made) == {"create": count}
    nodes = [made.outputs["master"].value, *made.outputs["workers"].value]
    assert changes(stack.up()) == {"same": count}

    configure(stack, {"cos:deadline": deadline(hours=5)})
    extended = stack.up()
    assert changes(extended).keys() == {"same", "update"}, "a later deadline changes tags and schedules only"
    assert [extended.outputs["master"].value, *extended.outputs["workers"].value] == nodes
    assert changes(stack.refresh()) == {"same": count}

    cloud.ec2.terminate_instances(InstanceIds=[nodes[-1]["id"]])
    assert changes(stack.refresh())["delete"] == 1, "a node that ended is missed"
    mended = stack.up()
    assert changes(mended)["create"] == 1
    assert mended.outputs["workers"].value[-1]["id"] != nodes[-1]["id"]

    stack.destroy()
    assert inventory(cloud) == before


@pytest.mark.slow
def test_a_nat_gateway_that_ended_at_the_deadline_is_made_again(engine: Engine, kit: Path) -> None:
    cloud = engine.cloud()
    before = inventory(cloud)
    stack = cluster_stack(engine, "cpu-small", kit, "nat")
    configure(stack, {"cos:egress": "nat"})

    def asked() -> dict[str, str]:
        scheduler = cloud.client("scheduler")
        (name,) = (each["Name"] for each in scheduler.list_schedules(NamePrefix="nat-nat-")["Schedules"])
        group = scheduler.list_schedules(NamePrefix=name)["Schedules"][0]["GroupName"]
        return json.loads(scheduler.get_schedule(Name=name, GroupName=group)["Target"]["Input"])

    stack.up()
    first = asked()
    NatGateway(cloud).delete(first["NatGatewayId"], {})  # as the schedule does
    stack.up(refresh=True)
    assert asked() != first
    (gateway,) = cloud.ec2.describe_nat_gateways(NatGatewayIds=[asked()["NatGatewayId"]])["NatGateways"]
    assert gateway["State"] == "available"
    tables = cloud.ec2.describe_route_tables()["RouteTables"]
    routes = [route.get("NatGatewayId") for table in tables for route in table["Routes"]]
    assert asked()["NatGatewayId"] in routes, "workers go out by it"
    stack.destroy()
    assert inventory(cloud) == before
