"""Clusters of AWS by the verbs, on Pulumi's real engine and moto."""

import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cluster import load
from tests.bootstrap.clusters.conftest import Lab
from tests.fixtures.command import cos
from tests.fixtures.living_nodes import HOST_KEY, bucket_of, tell_activity
from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.pulumi_aws.ledger import Fault

pytestmark = pytest.mark.long
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def before(lab: Lab) -> set[str]:
    return inventory(lab.cloud)


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capfd.readouterr()
    code = cos(*arguments, "--json")
    out, err = capfd.readouterr()
    assert code == 0, err
    return json.loads(re.split(r"^(?=[\[{])", out, maxsplit=1, flags=re.MULTILINE)[-1])  # moto prints what it lacks


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capfd.readouterr()
    assert cos(*arguments) == code
    return capfd.readouterr().err


def left_of(lab: Lab, before: set[str]) -> set[str]:
    return inventory(lab.cloud) - before


def test_a_life(lab: Lab, before: set[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert lab.init() == 0
    assert cos("up", "-c", "dev", "--yes") == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert "dev is up: 3 nodes" in out
    assert "created Instance dev-cpu-1" in err
    assert "Price: $0.49 an hour" in err
    facts = load("dev")
    assert facts.host_keys == {node.id: (HOST_KEY,) for node in (facts.master, *facts.workers)}
    assert facts.bucket == bucket_of(lab.cloud, "dev")

    state = answer(capfd, "status", "-c", "dev")
    ready = [(node["name"], node["readiness"]) for node in state["nodes"]]
    assert ready == [("master", "ready"), ("cpu-0", "ready"), ("cpu-1", "ready")]

    earlier = datetime.datetime.fromisoformat(state["deadline"])
    moved = datetime.datetime.fromisoformat(answer(capfd, "extend", "2h", "-c", "dev")["deadline"])
    assert moved - earlier == datetime.timedelta(hours=2)
    _everything_ends_at(lab, moved)

    tell_activity(lab.cloud, "dev", busy=True)
    assert "A job runs on dev" in refusal(capfd, "resize", "cpu", "1", "-c", "dev", "--yes")
    assert "A job runs on dev" in refusal(capfd, "down", "-c", "dev", "--yes")
    assert answer(capfd, "status", "-c", "dev")["busy"] is True
    tell_activity(lab.cloud, "dev", busy=False)

    grown = answer(capfd, "resize", "cpu", "3", "-c", "dev", "--yes")
    assert [node["id"] for node in grown["workers"][:2]] == [node.id for node in facts.workers], "the others stay"
    assert len(answer(capfd, "resize", "cpu", "1", "-c", "dev", "--yes")["workers"]) == 1
    _everything_ends_at(lab, moved)

    assert cos("stop", "-c", "dev", "--yes") == 0
    assert {node["state"] for node in answer(capfd, "status", "-c", "dev")["nodes"]} == {"stopped", "terminated"}
    assert "No node of dev is running: all its nodes are stopped" in refusal(capfd, "stop", "-c", "dev", "--yes")
    assert cos("start", "-c", "dev") == 0, capfd.readouterr().err
    assert load("dev").master.id == facts.master.id

    cost = answer(capfd, "cost", "-c", "dev")
    runs = [run for run in cost["runs"] if run["what"] == "master: m7i.large"]
    assert [run["end"] is None for run in runs] == [False, True], "the stop ended a run"
    assert cost["unknown"] == []
    assert cost["usd_per_hour"] == pytest.approx(0.1008 + 0.1785 + 100 * 0.08 / 730 + 2 * 0.005, abs=0.001)

    for key in ("sent/dev/index.json", "sent/dev/files/a/x", "sent/dev-2/index.json"):
        lab.cloud.s3.put_object(Bucket=facts.bucket, Key=key, Body=b"{}")
    assert cos("down", "-c", "dev", "--yes") == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert "Nothing billable of dev is left in us-east-1. It cost $0." in out
    assert "2 nodes save logs and models" in err
    assert left_of(lab, before) == {f"bucket {facts.bucket}"}, "the bucket holds the models and is kept"
    saved = lab.cloud.s3.list_objects_v2(Bucket=facts.bucket, Prefix=f"nodes/{facts.master.id}/logs/")
    assert saved["KeyCount"] == 1, "the nodes were asked to save"
    sent = lab.cloud.s3.list_object_versions(Bucket=facts.bucket, Prefix="sent/")["Versions"]
    assert [entry["Key"] for entry in sent] == ["sent/dev-2/index.json"], "what jobs were sent is of no use any more"
    assert "There is no cluster 'dev' here" in refusal(capfd, "jobs", "-c", "dev")
    assert cos("down", "-c", "dev", "--yes", "--delete-bucket") == 0, "again does no harm"
    assert left_of(lab, before) == set()


def _everything_ends_at(lab: Lab, deadline: datetime.datetime) -> None:
    """Tags that the guards read, and the schedules outside."""
    text = f"{deadline:%Y-%m-%dT%H:%M:%S}"
    tags = lab.cloud.ec2.describe_tags(Filters=[{"Name": "key", "Values": ["cos:deadline"]}])["Tags"]
    live = {
        instance["InstanceId"]
        for entry in lab.cloud.ec2.describe_instances()["Reservations"]
        for instance in entry["Instances"]
        if instance["State"]["Name"] == "running"
    }
    # A terminated instance keeps its tags for an hour.
    ours = [tag for tag in tags if tag["ResourceType"] != "instance" or tag["ResourceId"] in live]
    assert {tag["Value"] for tag in ours} == {f"{text}Z"}
    scheduler = lab.cloud.client("scheduler")
    schedules = scheduler.list_schedules()["Schedules"]
    found = [scheduler.get_schedule(Name=each["Name"], GroupName=each["GroupName"]) for each in schedules]
    assert len(found) == len(live)
    assert {each["ScheduleExpression"] for each in found} == {f"at({text})"}


def test_what_fails_can_be_gone_on_with(lab: Lab, before: set[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert lab.init("torn", "budget_usd=5", "budget_email=ada@example.org") == 0
    lab.engine.ledger.fail(Fault(name="torn-cpu-1"))
    said = refusal(capfd, "up", "-c", "torn", "--yes", code=1)
    lab.engine.ledger.fail()
    assert "EC2 has no c7i.xlarge to give in us-east-1a now: set cos:zone" in said
    assert "`cos up --cluster torn` goes on from here" in said
    assert "master" in [node["name"] for node in answer(capfd, "status", "-c", "torn")["nodes"]], "half up is told"

    lab.nodes.refusing = {"torn-cpu-1"}
    said = refusal(capfd, "up", "-c", "torn", "--yes", code=1)
    assert "cpu-1 (i-" in said
    assert "does not join: GPUs: 8 expected, 7 found" in said
    assert said.rstrip().endswith("REFUSED"), "the end of the boot's log"
    lab.nodes.refusing = set()

    # The state is lost, and a stranger has a cluster of another name.
    stranger = lab.cloud.ec2.create_security_group(
        GroupName="stranger", Description="not ours",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "cos:cluster", "Value": "torn2"}]}],
    )["GroupId"]  # fmt: skip
    for path in (lab.folder / "home").glob("state/.pulumi/stacks/**/torn.*"):
        path.unlink()
    assert "The name torn is taken in us-east-1" in refusal(capfd, "up", "-c", "torn", "--yes")
    found = answer(capfd, "sweep", "-c", "torn")
    assert {"instance", "VPC", "Elastic IP", "role", "secret", "bucket", "budget"} <= {entry["kind"] for entry in found}
    assert {entry["cluster"] for entry in found} == {"torn"}
    assert left_of(lab, before) > {entry["id"] for entry in found if entry["kind"] == "instance"}, "that was a look"
    assert "name it by --cluster" in refusal(capfd, "sweep", "--remove")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "bootstrap" / "teardown.py", "torn", "--delete-bucket"],
        cwd=lab.folder, env={**_environment(), "PYTHONPATH": ""}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing of torn is left in us-east-1" in done.stdout
    assert {name for name in left_of(lab, before) if not name.startswith("sgr-")} == {stranger}
    assert cos("sweep", "-c", "torn2", "--remove", "--yes") == 0
    assert left_of(lab, before) == set()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"}


PTY = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def interrupted(lab: Lab, is_time: Callable[[], object], *arguments: str) -> str:
    """What a command says on a terminal that gets Ctrl-C when it is time, and then an Enter."""
    command = [sys.executable, "-c", PTY, sys.executable, "-m", "bootstrap.cli", *arguments]
    process = subprocess.Popen(
        command, cwd=lab.folder, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    deadline = time.monotonic() + 120
    while not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stdin.write("\x03")
    process.stdin.flush()
    time.sleep(1.0)
    process.stdin.write("\n")
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 130, out
    return out


def test_ctrl_c_in_up_offers_to_destroy(lab: Lab, before: set[str]) -> None:
    assert lab.init("half", "keep_bucket=false") == 0
    lab.nodes.asleep = True
    ours = [{"Name": "tag:cos:cluster", "Values": ["half"]}]
    out = interrupted(lab, lambda: lab.cloud.ec2.describe_vpcs(Filters=ours)["Vpcs"], "up", "-c", "half", "--yes")
    assert "Interrupted: half is half up and costs." in out
    assert "Nothing billable of half is left" in out
    assert left_of(lab, before) == set()


def test_ctrl_c_in_resize_offers_no_end(lab: Lab, before: set[str]) -> None:
    assert lab.init("whole", "keep_bucket=false") == 0
    assert cos("up", "-c", "whole", "--yes") == 0
    lab.nodes.asleep = True
    grown = [{"Name": "tag:Name", "Values": ["whole-cpu-2"]}, {"Name": "instance-state-name", "Values": ["running"]}]
    instances = lab.cloud.ec2.describe_instances
    out = interrupted(
        lab, lambda: instances(Filters=grown)["Reservations"], "resize", "cpu", "3", "-c", "whole", "--yes"
    )
    assert "Interrupted: whole may be changed in part. `cos up --cluster whole` goes on from here" in out
    assert "Destroy" not in out
    ours = [{"Name": "tag:cos:cluster", "Values": ["whole"]}, grown[1]]
    assert len([each for entry in instances(Filters=ours)["Reservations"] for each in entry["Instances"]]) == 4
    lab.nodes.asleep = False
    assert cos("up", "-c", "whole", "--yes") == 0
    assert len(load("whole").workers) == 3
    assert cos("down", "-c", "whole", "--yes", "--save", "0m") == 0
    assert left_of(lab, before) == set()
