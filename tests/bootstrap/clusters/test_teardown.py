"""The end of a cluster by its tag, where there is more than one thing of its name: two lives, two regions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.budgets.responses import BudgetsResponse
from moto.core.exceptions import JsonRESTError

from bootstrap import teardown
from bootstrap.cluster import Cluster, NodeFacts, save
from bootstrap.clusters import config, facts, running
from bootstrap.clusters.down import Ended, drop_bucket, end
from bootstrap.clusters.nodes import place
from tests.fixtures import moto_gaps
from tests.fixtures.command import cos
from tests.fixtures.pulumi_aws.kinds import ACCOUNT, Cloud
from tests.fixtures.pulumi_aws.values import tag_list
from tests.fixtures.pulumi_engine import Engine, image

EARLIER, LATER = "dev-data-1111111", "dev-data-9999999"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPC4RzIyRJkkCEgZH7IMYFR2cJ6WdWMBcZ2Cqy3pNg0t tests"
ENDED = [["i-1", "master: m7i.large", 0.1, "2026-01-01T00:00:00+00:00", "2026-01-01T05:00:00+00:00"]]
RUNS = [["i-2", "master: m7i.large", 0.1, "2026-02-01T00:00:00+00:00", None]]


@pytest.fixture
def cloud(engine: Engine, cos_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An empty account, seen from us-east-1, and a configuration of `dev` there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.address)
    monkeypatch.setattr(teardown, "_POLL_SECONDS", 0.1)
    engine.reset_account()
    moto_gaps.fill(monkeypatch, engine.cloud())
    _configure("us-east-1")
    yield engine.cloud()
    engine.reset_account()


def _configure(region: str) -> None:
    config.path("dev").unlink(missing_ok=True)
    values = {"preset": "cpu-small", "region": region, "zone": f"{region}a", "owner": "ada"}
    config.create("dev", {**values, "ssh_from": "203.0.113.7/32", "ssh_public_key": KEY})


def _make_bucket(cloud: Cloud, name: str, meters: Any = None) -> None:
    """A bucket of a life of `dev` with a model in it."""
    where = {} if cloud.region == "us-east-1" else {"LocationConstraint": cloud.region}
    cloud.s3.create_bucket(Bucket=name, **({"CreateBucketConfiguration": where} if where else {}))
    cloud.s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tag_list({"cos:cluster": "dev"})})
    cloud.s3.put_object(Bucket=name, Key="models/lenet.caffemodel", Body=b"model")
    if meters is not None:
        cloud.s3.put_object(Bucket=name, Key="cost/dev/meter.json", Body=json.dumps(meters).encode())


def _launch(cloud: Cloud, bucket: str) -> str:
    """A node of `dev` that has booted and told the bucket so."""
    tags = tag_list({"cos:cluster": "dev", "cos:role": "master", "Name": "dev-master"})
    specification = [{"ResourceType": "instance", "Tags": tags}]
    made = cloud.ec2.run_instances(ImageId=image(cloud), MinCount=1, MaxCount=1, TagSpecifications=specification)
    node = str(made["Instances"][0]["InstanceId"])
    cloud.s3.put_object(Bucket=bucket, Key=f"nodes/{node}/status.json", Body=b'{"state": "ready"}')
    return node


def _know(node: str, bucket: str, region: str = "us-east-1") -> None:
    master = NodeFacts(id=node, role="master", group="master", private_ip="10.0.0.1")
    save(Cluster(cluster="dev", region=region, bucket=bucket, ssh_user="ubuntu", master=master))


def _buckets(cloud: Cloud) -> set[str]:
    return {entry["Name"] for entry in cloud.s3.list_buckets()["Buckets"]}


def _meters(cloud: Cloud, bucket: str) -> Any:
    return json.loads(cloud.s3.get_object(Bucket=bucket, Key="cost/dev/meter.json")["Body"].read())


class Stack:
    """A stack of Pulumi's that ends what it knows: nothing."""

    def __init__(self, *, is_used: bool) -> None:
        self.is_used = is_used

    def destroy(self, on_event: object) -> None:
        self.is_used = False


def _end(told: list[str], *, is_used: bool = True) -> Ended:
    return end("dev", place("us-east-1"), Stack(is_used=is_used), None, told.append, save_seconds=0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_known", [True, False], ids=["facts", "no facts"])
def test_down_ends_its_own_life_alone(cloud: Cloud, *, is_known: bool) -> None:
    _make_bucket(cloud, EARLIER, ENDED)
    _make_bucket(cloud, LATER, RUNS)
    node = _launch(cloud, LATER)
    if is_known:
        _know(node, LATER)
    assert running.look("dev").bucket == LATER
    told: list[str] = []
    ended = _end(told)
    assert ended.bucket == LATER
    assert f"1 nodes save logs and models to {LATER} and end (up to 0 s)" in told
    assert any(f"of other lives of dev: s3://{EARLIER};" in line for line in told)
    assert _meters(cloud, EARLIER) == ENDED, "another life's cost stays as it was"
    assert _meters(cloud, LATER)[0][:4] == RUNS[0][:4]
    assert _meters(cloud, LATER)[0][4] is not None, "the run is closed"
    drop_bucket(place("us-east-1"), LATER)
    assert _buckets(cloud) == {EARLIER}


def test_a_bucket_is_left_where_none_is_known_to_be_of_this_life(cloud: Cloud) -> None:
    _make_bucket(cloud, EARLIER, ENDED)
    _make_bucket(cloud, LATER)
    told: list[str] = []
    assert _end(told).bucket is None
    (line,) = [line for line in told if "kept in any case" in line]
    assert f"s3://{EARLIER}, s3://{LATER}" in line
    assert "`cos sweep --cluster dev --region us-east-1 --remove --delete-bucket`" in line


def test_the_bucket_of_a_life_that_has_ended_is_not_the_next_ones(cloud: Cloud) -> None:
    """An `up` that failed before it made a bucket leaves the last life's the only one."""
    _make_bucket(cloud, EARLIER, ENDED)
    assert _end([], is_used=True).bucket is None
    assert _end([], is_used=False).bucket == EARLIER, "down once more, after a down"


def test_a_bucket_of_the_persons_own_is_the_clusters(cloud: Cloud) -> None:
    _make_bucket(cloud, EARLIER)
    cloud.s3.create_bucket(Bucket="mine")
    config.change("dev", bucket="mine")
    _launch(cloud, "mine")
    told: list[str] = []
    cloud.s3.put_object(Bucket="mine", Key="cost/dev/meter.json", Body=json.dumps(RUNS).encode())
    ended = _end(told)
    assert (ended.bucket, ended.is_own) == ("mine", False), "neither is removed"
    assert _meters(cloud, "mine")[0][4] is not None, "the run is closed"
    assert "1 nodes save logs and models to mine and end (up to 0 s)" in told


def test_a_teardown_has_the_nodes_of_this_life_save(cloud: Cloud) -> None:
    _make_bucket(cloud, EARLIER, ENDED)
    _make_bucket(cloud, LATER, RUNS)
    node = _launch(cloud, LATER)
    told: list[str] = []
    assert teardown.teardown(place("us-east-1"), "dev", told.append, force=False, save_seconds=0.2) == []
    assert f"1 nodes save logs and models to {LATER} and end (up to 0 s)" in told
    (instance,) = cloud.ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"]
    assert "cos:deadline" in {tag["Key"] for tag in instance["Tags"]}, "what its guard saves at"
    assert _meters(cloud, EARLIER) == ENDED


@pytest.fixture
def west(cloud: Cloud, engine: Engine) -> Cloud:
    """`dev` lives in us-west-2, with what AWS has for all regions at once; the profile's region is us-east-1."""
    west = engine.cloud("us-west-2")
    _configure("us-west-2")
    _make_bucket(west, LATER, RUNS)
    _know(_launch(west, LATER), LATER, "us-west-2")
    tags = tag_list({"cos:cluster": "dev", "cos:region": "us-west-2"})
    west.iam.create_role(RoleName="dev-master-1", AssumeRolePolicyDocument="{}", Tags=tags)
    west.iam.create_instance_profile(InstanceProfileName="dev-master-1", Tags=tags)
    west.iam.add_role_to_instance_profile(InstanceProfileName="dev-master-1", RoleName="dev-master-1")
    _make_budget(west, "dev-budget-us-west-2-1")
    return west


def _make_budget(cloud: Cloud, name: str) -> None:
    budget = {
        "BudgetName": name, "BudgetType": "COST", "TimeUnit": "MONTHLY", "BudgetLimit": {"Amount": "5", "Unit": "USD"},
        "CostFilters": {"TagKeyValue": ["user:cos:cluster$dev"]},
    }  # fmt: skip
    cloud.client("budgets").create_budget(AccountId=ACCOUNT, Budget=budget, NotificationsWithSubscribers=[])


def _global(cloud: Cloud) -> list[str]:
    budgets = cloud.client("budgets").describe_budgets(AccountId=ACCOUNT)["Budgets"]
    return [
        *(each["RoleName"] for each in cloud.iam.list_roles()["Roles"]),
        *(each["InstanceProfileName"] for each in cloud.iam.list_instance_profiles()["InstanceProfiles"]),
        *(each["BudgetName"] for each in budgets),
    ]


ALL_OF_DEV = ["dev-master-1", "dev-master-1", "dev-budget-us-west-2-1"]


def test_a_teardown_in_another_region_leaves_roles_and_budgets(west: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert teardown.main(["dev"]) == 0
    assert capsys.readouterr().out == "nothing of dev is in us-east-1: --all-regions looks everywhere\n"
    assert _global(west) == ALL_OF_DEV
    assert teardown.main(["dev", "--region", "us-west-2", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["instance", "instance", "role", "budget", "bucket"]


def test_a_sweep_is_where_the_cluster_is(west: Cloud, capfd: pytest.CaptureFixture[str]) -> None:
    assert cos("sweep", "-c", "dev", "--region", "us-east-1", "--remove", "--yes") == 0
    assert "Nothing of dev is there in us-east-1." in capfd.readouterr().out
    _leave_a_group_in_the_east(west)
    assert cos("sweep", "-c", "dev", "--region", "us-east-1", "--remove", "--yes") == 0
    assert "Nothing billable of dev is left in us-east-1." in capfd.readouterr().err
    assert _global(west) == ALL_OF_DEV
    assert facts.known("dev") is not None, "its nodes' keys are of use still"

    west.ec2.terminate_instances(InstanceIds=[facts.known("dev").master.id])  # type: ignore[union-attr]
    assert cos("sweep", "-c", "dev", "--remove", "--yes", "--delete-bucket") == 0
    assert "Nothing billable of dev is left in us-west-2." in capfd.readouterr().err
    assert _global(west) == []
    assert _buckets(west) == set()
    assert facts.known("dev") is None


def _leave_a_group_in_the_east(west: Cloud) -> None:
    tags = [{"ResourceType": "security-group", "Tags": tag_list({"cos:cluster": "dev"})}]
    east = Cloud(west.endpoint, "us-east-1")
    east.ec2.create_security_group(GroupName="left", Description="of dev", TagSpecifications=tags)


def test_who_may_not_list_budgets_ends_a_cluster(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_response: BudgetsResponse) -> str:
        raise JsonRESTError("AccessDeniedException", "not authorized to perform: budgets:ViewBudget")

    _make_bucket(cloud, LATER)
    _launch(cloud, LATER)
    monkeypatch.setattr(BudgetsResponse, "describe_budgets", refuse)
    assert [found.kind for found in teardown.find(place("us-east-1"), "dev")] == ["instance"]
    assert teardown.teardown(place("us-east-1"), "dev", print, force=True, save_seconds=0.2) == []
    note = "budgets were not looked for: you lack the permission budgets:ViewBudget"
    assert capsys.readouterr().out.splitlines().count(note) == 1
