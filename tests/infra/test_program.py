import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import boto3
import pulumi
import pytest
from moto import mock_aws

from bootstrap.node.seed import blob_key
from infra import outputs, presets
from infra.config_errors import ConfigError
from infra.outputs import ClusterOutputs
from infra.planned import Planned, plan
from infra.policies import POLICIES
from infra.storage import kit_objects
from tests.infra.plans import config, of_type, plan_of, resources

EFA_GROUP = {"name": "gpu", "type": "p5.48xlarge", "count": 2, "efa": True}
LATER = {"ttl": "4h", "deadline": "2099-01-02T00:00:00Z"}
EARLIER = {"ttl": "4h", "deadline": "2099-01-01T00:00:00Z"}


def chain(planned: tuple[Planned, ...]) -> list[str]:
    """The longest way from a resource that needs none to one that no other needs."""
    by_urn = {entry.urn: entry for entry in planned}

    @cache
    def longest(urn: str) -> tuple[str, ...]:
        ways = [longest(need) for need in by_urn[urn].needs if need in by_urn]
        return (*max(ways, key=len, default=()), by_urn[urn].type.rsplit(":", 1)[1])

    return list(max((longest(urn) for urn in by_urn), key=len))


def needs(planned: tuple[Planned, ...], entry: Planned) -> set[str]:
    """The types of all that has to exist before a resource, at any remove."""
    by_urn = {other.urn: other for other in planned}
    seen: set[str] = set()
    open_ends = [entry.urn]
    while open_ends:
        for need in by_urn[open_ends.pop()].needs:
            if need in by_urn and need not in seen:
                seen.add(need)
                open_ends.append(need)
    return seen


def lasting(entry: Planned) -> dict:
    """Inputs less what moves with the deadline."""
    inputs = {key: value for key, value in entry.inputs.items() if key not in {"tags", "volumeTags"}}
    return {} if entry.type.endswith(":Schedule") else inputs


@pytest.mark.parametrize("preset", presets.names())
def test_no_preset_breaks_a_policy(preset: str) -> None:
    planned = resources(plan_of(preset))
    broken = [(policy.name, found.name, problem) for policy in POLICIES for found, problem in policy.check(planned)]
    assert broken == []


@pytest.mark.parametrize("egress", ["nat", "endpoints"])
@pytest.mark.parametrize("ssh_from", ["203.0.113.7/32", "ssm"])
def test_no_way_out_or_in_breaks_a_policy(egress: str, ssh_from: str) -> None:
    planned = plan_of(egress=egress, ssh_from=ssh_from, budget_usd=100, budget_email="ada@example.org")
    assert [problem for policy in POLICIES for _, problem in policy.check(resources(planned))] == []
    ports = {entry.inputs.get("fromPort") for entry in of_type(planned, "SecurityGroupIngressRule")}
    assert (22 in ports) == (ssh_from != "ssm")


def test_the_longest_chain_holds_nothing_needless() -> None:
    first, second, *rest = chain(plan_of("cpu-small"))
    assert first == "Vpc"
    assert second in {"Subnet", "SecurityGroup"}
    assert rest[0] == "NetworkInterface"
    assert rest[1] in {"Eip", "LaunchTemplate"}, "the master's way and the workers'"
    assert rest[2:] == ["Instance", "Schedule"]
    # A node without a way out would wait for it at its full price.
    assert len(chain(plan_of("efa-a100"))) == 6


def test_workers_start_beside_the_master() -> None:
    planned = plan_of("cpu-small")
    for worker in of_type(planned, "Instance"):
        if worker.inputs["tags"]["cos:role"] == "worker":
            assert not any("Instance::" in urn or "eip" in urn for urn in needs(planned, worker))


def test_the_master_does_not_wait_for_the_workers_nat() -> None:
    planned = plan_of("efa-a100")
    master = next(entry for entry in of_type(planned, "Instance") if entry.inputs["tags"]["cos:role"] == "master")
    worker = next(entry for entry in of_type(planned, "Instance") if entry.inputs["tags"]["cos:role"] == "worker")
    assert not any("NatGateway" in urn for urn in needs(planned, master))
    assert any("NatGateway" in urn for urn in needs(planned, worker))


def test_the_plan_grows_linearly_with_nodes() -> None:
    sizes = [len(plan_of(workers=[{"name": "w", "type": "c7i.xlarge", "count": count}])) for count in (1, 2, 4, 8)]
    node = sizes[1] - sizes[0]
    assert node == 2, "an instance and its schedule"
    assert sizes == [sizes[0] + node * (count - 1) for count in (1, 2, 4, 8)]


def test_the_largest_preset_has_64_nodes_of_33_interfaces() -> None:
    planned = plan_of("efa-h100")
    template = next(entry for entry in of_type(planned, "LaunchTemplate") if entry.name == "example-gpu")
    kinds = [interface["interfaceType"] for interface in template.inputs["networkInterfaces"]]
    assert kinds == ["interface"] + ["efa-only"] * 32
    assert len(of_type(planned, "Instance")) == 65


def test_a_later_deadline_replaces_no_node() -> None:
    before, after = plan_of(**EARLIER), plan_of(**LATER)
    assert [entry.urn for entry in sorted(before, key=lambda entry: entry.urn)] == sorted(entry.urn for entry in after)
    lasted = {entry.urn: lasting(entry) for entry in after}
    assert {entry.urn: lasting(entry) for entry in before} == lasted
    assert {entry.inputs["tags"]["cos:deadline"] for entry in of_type(after, "Instance")} == {LATER["deadline"]}
    assert {entry.inputs["scheduleExpression"] for entry in of_type(after, "Schedule")} == {"at(2099-01-02T00:00:00)"}


def test_each_schedule_terminates_its_node() -> None:
    planned = plan_of("spot-gpu")
    targets = {entry.name: entry.inputs["target"] for entry in of_type(planned, "Schedule")}
    assert {entry.name for entry in of_type(planned, "Instance")} == set(targets)
    for name, target in targets.items():
        assert target["arn"] == "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
        assert json.loads(target["input"]) == {"InstanceIds": [f"{name}-id"]}


@pytest.mark.parametrize(
    ("egress", "ended"),
    [
        (
            "nat",
            {"nat": ("deleteNatGateway", {"NatGatewayId": "example-nat-id"})},
        ),
        (
            "endpoints",
            {
                service: ("deleteVpcEndpoints", {"VpcEndpointIds": [f"example-{service}-id"]})
                for service in ("secretsmanager", "ssm", "ssmmessages", "ec2messages")
            },
        ),
        ("public-ip", {}),
    ],
)
def test_a_network_that_bills_ends_with_the_nodes(egress: str, ended: dict[str, Any]) -> None:
    planned = plan_of(egress=egress)
    schedules = {entry.name.removeprefix("example-"): entry.inputs for entry in of_type(planned, "Schedule")}
    assert schedules.keys() - {"master", "cpu-0", "cpu-1"} == ended.keys()
    assert len({inputs["scheduleExpression"] for inputs in schedules.values()}) == 1, (
        "`cos extend` moves all to one time"
    )
    for part, (action, asked) in ended.items():
        target = schedules[part]["target"]
        assert target["arn"].endswith(f":ec2:{action}")
        assert json.loads(target["input"]) == asked
    (allowed,) = _statements(planned, "example-deadline").values()
    used = {inputs["target"]["arn"].rsplit(":", 1)[1] for inputs in schedules.values()}
    assert used <= {
        action.removeprefix("ec2:")[0].lower() + action.removeprefix("ec2:")[1:] for action in allowed["Action"]
    }
    assert allowed["Condition"] == {"StringEquals": {"aws:ResourceTag/cos:cluster": "example"}}


def test_user_data_ends_the_node_before_anything_else() -> None:
    for template in of_type(plan_of("cpu-small"), "LaunchTemplate"):
        text = base64.b64decode(template.inputs["userData"]).decode()
        assert text.startswith("#cloud-config\n")
        assert "shutdown -P +240" in text.split("write_files")[0]


def test_a_placement_group_goes_with_efa_and_not_with_a_reservation() -> None:
    def groups(**changed: object) -> tuple[list[str], object]:
        planned = plan_of("efa-h100", workers=[{**EFA_GROUP, **changed}])
        template = next(entry for entry in of_type(planned, "LaunchTemplate") if entry.name == "example-gpu")
        made = [entry.inputs["strategy"] for entry in of_type(planned, "PlacementGroup")]
        return made, (template.inputs.get("placement") or {}).get("groupName")

    assert groups() == (["cluster"], "example-gpu")
    assert groups(reservation="cr-1") == ([], None)
    assert groups(reservation="cr-1", placement_group="theirs") == ([], "theirs")
    assert groups(placement_group="none") == ([], None)


def test_workers_are_bought_as_asked_and_the_master_on_demand() -> None:
    def bought(preset: str, **changed: object) -> tuple[object, object]:
        planned = plan_of(preset, **changed)
        by_name = {entry.name: entry.inputs for entry in of_type(planned, "LaunchTemplate")}
        assert "instanceMarketOptions" not in by_name["example-master"]
        worker = by_name["example-gpu"]
        return worker.get("instanceMarketOptions"), worker.get("capacityReservationSpecification")

    once = {"spotInstanceType": "one-time", "instanceInterruptionBehavior": "terminate"}
    target = {"capacityReservationTarget": {"capacityReservationId": "cr-1"}}
    block = [{**EFA_GROUP, "market": "capacity-block", "reservation": "cr-1"}]
    assert bought("spot-gpu") == ({"marketType": "spot", "spotOptions": once}, None)
    assert bought("efa-h100", workers=block) == ({"marketType": "capacity-block"}, target)
    assert bought("efa-h100", workers=[{**EFA_GROUP, "reservation": "cr-1"}]) == (None, target)


def test_efa_rules_name_the_group_itself() -> None:
    planned = plan_of("efa-h100")
    group = next(entry for entry in of_type(planned, "SecurityGroup") if entry.name == "example-nodes")
    for kind in ("SecurityGroupIngressRule", "SecurityGroupEgressRule"):
        rules = [
            entry.inputs for entry in of_type(planned, kind) if entry.inputs["securityGroupId"] == f"{group.name}-id"
        ]
        own = [rule for rule in rules if rule.get("referencedSecurityGroupId") == f"{group.name}-id"]
        assert [rule["ipProtocol"] for rule in own] == ["-1"]


def test_an_existing_vpc_is_left_as_it_is() -> None:
    planned = plan_of(vpc_id="vpc-1", subnet_id="subnet-1", master_subnet_id="subnet-2", egress="existing")
    kinds = {entry.type.rsplit(":", 1)[1] for entry in planned}
    assert not kinds & {"Vpc", "Subnet", "InternetGateway", "NatGateway", "RouteTable", "Route", "VpcEndpoint"}
    assert of_type(planned, "NetworkInterface")[0].inputs["subnetId"] == "subnet-2"
    worker = next(entry for entry in of_type(planned, "LaunchTemplate") if entry.name == "example-cpu")
    assert worker.inputs["networkInterfaces"][0]["subnetId"] == "subnet-1"


def test_an_existing_bucket_is_used_and_not_made() -> None:
    planned = plan_of(bucket="mine")
    assert not of_type(planned, "Bucket")
    document = next(entry for entry in of_type(planned, "RolePolicy") if entry.name == "example-worker")
    assert "arn:aws:s3:::mine/*" in document.inputs["policy"]


def test_a_budget_writes_to_its_address() -> None:
    (budget,) = of_type(plan_of(budget_usd=500, budget_email="ada@example.org"), "Budget")
    assert budget.inputs["limitAmount"] == "500.00"
    assert budget.inputs["costFilters"] == [{"name": "TagKeyValue", "values": ["user:cos:cluster$example"]}]
    assert {note["subscriberEmailAddresses"][0] for note in budget.inputs["notifications"]} == {"ada@example.org"}


def test_what_aws_has_for_all_regions_tells_its_own() -> None:
    planned = plan_of(region="eu-west-1", zone="eu-west-1a", budget_usd=500, budget_email="ada@example.org")
    regionless = [entry for kind in ("Role", "InstanceProfile", "Budget") for entry in of_type(planned, kind)]
    assert [entry.name for entry in regionless if entry.inputs["tags"].get("cos:region") != "eu-west-1"] == []
    assert regionless[-1].name == "example-budget-eu-west-1", "by which it is found"
    assert len(regionless) == 6


def test_nodes_wait_for_their_kit(tmp_path) -> None:
    wheel = hashlib.sha256(b"wheel").hexdigest()
    (tmp_path / "cos.whl").write_bytes(b"wheel")
    manifest = json.dumps({"files": [{"name": "cos.whl", "sha256": wheel}]})
    (tmp_path / "manifest.json").write_text(manifest)

    planned = tuple(plan(config(kit="", kit_dir=str(tmp_path))))

    prefix = f"kit/example/{hashlib.sha256(manifest.encode()).hexdigest()}"
    stored = of_type(planned, "BucketObjectv2")
    assert {entry.inputs["key"] for entry in stored} == {f"{prefix}/manifest.json", blob_key(prefix, wheel)}
    for node in of_type(planned, "Instance"):
        assert {entry.urn for entry in stored} <= needs(planned, node)
    # What nodes may not change is where the kit lies, and for a worker what jobs were sent.
    denied = {
        role: _statements(planned, f"example-{role}")["LeaveWhatBoots"]["Resource"] for role in ("master", "worker")
    }
    assert {role: [name.split("/")[-2] for name in names] for role, names in denied.items()} == {
        "master": ["kit"],
        "worker": ["kit", "sent"],
    }


def test_a_folder_without_a_kit_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"cos:kit_dir is .* no manifest\.json"):
        kit_objects(tmp_path, "kit")


@mock_aws
@pytest.mark.parametrize("ssh_from", ["203.0.113.7/32", "ssm"])
def test_iam_takes_the_policies(ssh_from: str) -> None:
    iam = boto3.client("iam")
    planned = plan_of(ssh_from=ssh_from, data_buckets=["imagenet"])
    for role in of_type(planned, "Role"):
        iam.create_role(RoleName=role.name, AssumeRolePolicyDocument=role.inputs["assumeRolePolicy"])
    for policy in of_type(planned, "RolePolicy"):
        iam.put_role_policy(RoleName=policy.name, PolicyName="p", PolicyDocument=policy.inputs["policy"])
    statements = _statements(planned, "example-worker")
    assert ("Session" in statements) == (ssh_from == "ssm")
    assert "arn:aws:s3:::imagenet/*" in statements["ReadObjects"]["Resource"]
    assert "arn:aws:s3:::imagenet/*" not in statements["WriteObjects"]["Resource"]
    assert statements["SparkSecret"]["Action"] == ["secretsmanager:GetSecretValue"]
    assert statements["LeaveWhatBoots"]["Effect"] == "Deny"


def _statements(planned: Sequence[Planned], role: str) -> dict[str, Any]:
    document = next(entry.inputs["policy"] for entry in of_type(planned, "RolePolicy") if entry.name == role)
    return {statement["Sid"]: statement for statement in json.loads(document)["Statement"]}


def test_outputs_are_what_the_launcher_reads(monkeypatch) -> None:
    exported: dict[str, object] = {}
    monkeypatch.setattr(outputs.pulumi, "export", exported.__setitem__)
    plan(config("gpu-single"))

    async def resolved() -> object:
        return await pulumi.Output.all(**exported).future()

    read = ClusterOutputs.model_validate(asyncio.get_event_loop().run_until_complete(resolved()))
    assert (read.cluster, read.ssh_via, read.ssh_user) == ("example", "public", "ubuntu")
    assert read.master.id == "example-master-id"
    assert read.master.public_ip
    assert [(node.id, node.group, node.hourly_usd) for node in read.workers] == [("example-gpu-0-id", "gpu", 0.8048)]
