"""What `up` and `resize` do to a cluster that is used: by a job, by somebody on another laptop, or stopped."""

import datetime
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models import ec2_backends
from pulumi.automation import EngineEvent

from bootstrap import kit
from bootstrap.cluster import load
from bootstrap.clusters import config, running
from bootstrap.clusters.engine import Engine
from bootstrap.clusters.nodes import find, place
from bootstrap.node import user_data
from tests.bootstrap.clusters.conftest import Lab, a_kit
from tests.fixtures.command import cos
from tests.fixtures.living_nodes import bucket_of, tell_activity

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capfd.readouterr()
    assert cos(*arguments, "-c", "dev") == code
    return capfd.readouterr().err


def ids() -> dict[str, str]:
    """The live nodes' ids by their names."""
    return {node.name: node.id for node in find(place("us-east-1"), "dev")}


def saved(lab: Lab, instance: str) -> bool:
    """Whether the node saved its logs before it ended."""
    found = lab.cloud.s3.list_objects_v2(Bucket=bucket_of(lab.cloud, "dev"), Prefix=f"nodes/{instance}/logs/")
    return bool(found["KeyCount"])


@pytest.fixture
def dev(lab: Lab) -> Iterator[Lab]:
    """A cluster that is up, and ends with the test."""
    assert lab.init("dev", "keep_bucket=false") == 0
    assert cos("up", "-c", "dev", "--yes") == 0
    yield lab
    assert cos("down", "-c", "dev", "--yes", "--force", "--save", "0m") == 0


def test_nodes_are_replaced_under_no_job_and_save_before(
    dev: Lab, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids()
    tell_activity(dev.cloud, "dev", busy=True)

    # A pull of our code: another seed.
    pulled = {**user_data._modules(), "bootstrap/node/tell.py": b"# newer\n"}
    monkeypatch.setattr(user_data, "_modules", lambda: pulled)
    assert cos("up", "-c", "dev", "--yes") == 0, "it replaces nothing, so that no job is asked for"
    assert ids() == before
    dev.cloud.ec2.terminate_instances(InstanceIds=[before["cpu-1"]])
    assert cos("up", "-c", "dev", "--yes") == 0, "nor does a node for one that was lost"
    mended = ids()
    assert mended["cpu-1"] != before["cpu-1"]
    assert {**mended, "cpu-1": ""} == {**before, "cpu-1": ""}

    workers = [{**config.resized("dev", "cpu", 2)[0], "disk_gb": 120}]
    config.change("dev", workers=workers)
    for verb in (["up"], ["resize", "cpu", "3"]):
        said = refusal(capfd, *verb, "--yes")
        assert "to be replaced or removed: cpu-0, cpu-1\n" in said
        assert "A job runs on dev" in said
    assert config.read("dev")["workers"] == workers
    assert ids() == mended

    tell_activity(dev.cloud, "dev", busy=False)
    assert "which replaces or removes cpu-0, cpu-1, for $" in refusal(capfd, "up")
    assert cos("up", "-c", "dev", "--yes") == 0
    assert "2 nodes save logs and models to dev-data" in capfd.readouterr().err
    assert [saved(dev, mended[name]) for name in ("master", "cpu-0", "cpu-1")] == [False, True, True]
    assert ids()["master"] == mended["master"]
    assert not {ids()["cpu-0"], ids()["cpu-1"]} & set(mended.values())


def test_a_new_kit(lab: Lab, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code = [b"wheel"]
    monkeypatch.setattr(kit, "fetch_java", lambda _folder: None)
    monkeypatch.setattr(kit, "build", lambda folder, java: a_kit(folder, code[0]))
    assert lab.init("dev", "keep_bucket=false", has_kit=False) == 0
    assert cos("up", "-c", "dev", "--yes") == 0
    before = ids()

    code[0] = b"newer"
    tell_activity(lab.cloud, "dev", busy=True)
    said = refusal(capfd, "up", "--new-kit", "--yes")
    assert "to be replaced or removed: master, cpu-0, cpu-1\n" in said
    assert "A job runs on dev" in said
    assert cos("up", "-c", "dev", "--yes") == 0
    assert ids() == before, "the kit was not built"

    tell_activity(lab.cloud, "dev", busy=False)
    asked = "Bring dev up to date (a kit of your present code), which replaces or removes master, cpu-0, cpu-1, for"
    assert asked in refusal(capfd, "up", "--new-kit")
    assert cos("up", "-c", "dev", "--new-kit", "--yes") == 0
    assert all(saved(lab, instance) for instance in before.values())
    after = ids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert cos("up", "-c", "dev", "--new-kit", "--yes") == 0
    assert ids() == after, "it is the same kit"
    assert cos("down", "-c", "dev", "--yes", "--save", "0m") == 0


def test_a_backend_that_is_shared(dev: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    locks = dev.folder / "home/state/.pulumi/locks/organization/cos/dev"
    there, pending = ids(), _leave_unfinished(dev)

    _lock(locks, "another-laptop", 4242)
    for verb in (["up", "--yes"], ["down", "--yes", "--save", "0m"]):
        said = refusal(capfd, *verb)
        assert "ada@another-laptop (process 4242) works on dev by Pulumi: wait until it is done" in said
        assert [path.name for path in locks.iterdir()] == ["4242.json"]
        assert dev.cloud.ec2.describe_vpcs(VpcIds=[pending])["Vpcs"], "what they are making is there"
    assert ids() == there
    command = said.partition("`pulumi ")[2].partition("`")[0].split()
    pulumi = shutil.which("pulumi") or ""
    subprocess.run([pulumi, *command, "--yes"], check=True, capture_output=True, timeout=60)
    assert not list(locks.iterdir()), "the command that was told breaks the lock"

    with subprocess.Popen(["true"]) as killed:
        pass
    _lock(locks, socket.gethostname(), killed.pid)
    assert cos("up", "-c", "dev", "--yes") == 0, "the lock of a killed process of this machine is none"
    assert f"removed VPC {pending}, which an interrupted run had left" in capfd.readouterr().err
    assert ids() == there


def _lock(folder: Path, host: str, pid: int) -> None:
    """The lock of a process, as Pulumi writes it."""
    told = {"pid": pid, "username": "ada", "hostname": host, "timestamp": "2026-01-01T10:00:00Z"}
    (folder / f"{pid}.json").write_text(json.dumps(told))


def _leave_unfinished(lab: Lab) -> str:
    """What an `up` leaves that is killed as it makes a VPC, or is at it; the VPC's id."""
    path = lab.folder / "home/state/.pulumi/stacks/cos/dev.json"
    state = json.loads(path.read_text())
    latest = state["checkpoint"]["latest"]
    vpc = next(entry for entry in latest["resources"] if entry["type"] == "aws:ec2/vpc:Vpc")
    resource = {key: vpc[key] for key in ("custom", "type", "inputs", "parent", "provider")}
    latest["pending_operations"] = [{"type": "creating", "resource": {**resource, "urn": f"{vpc['urn']}-2"}}]
    path.write_text(json.dumps(state))
    tags = [{"Key": "cos:cluster", "Value": "dev"}]
    made = lab.cloud.ec2.create_vpc(CidrBlock="10.99.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])
    return str(made["Vpc"]["VpcId"])


def test_a_stopped_cluster_is_not_up(dev: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    master = load("dev").master
    assert cos("stop", "-c", "dev", "--yes") == 0
    said = refusal(capfd, "up", "--yes")
    assert "master, cpu-0, cpu-1 of dev are stopped: `cos start --cluster dev` starts nodes that have stopped." in said

    state = _instance(ids()["cpu-0"])._state
    state.name, state.code = "stopping", 64
    said = refusal(capfd, "start", code=1)
    assert "cpu-0 of dev is stopping: `cos start --cluster dev` starts nodes that have stopped." in said
    state.name, state.code = "stopped", 80
    assert cos("start", "-c", "dev") == 0
    assert load("dev").master.id == master.id


def _instance(name: str) -> Any:
    (found,) = [one for regions in ec2_backends.values() for one in [regions["us-east-1"].get_instance(name)] if one]
    return found


def test_an_extension_while_up_works_stays(dev: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime.datetime.fromisoformat(config.read("dev")["deadline"])
    up = Engine.up
    extended: list[datetime.datetime] = []

    def up_and_extend(engine: Engine, on_event: Any, *, refresh: bool) -> Any:
        def extend_once(event: EngineEvent) -> None:
            if not extended:
                extended.append(running.extend("dev", 120))
            on_event(event)

        return up(engine, extend_once, refresh=refresh)

    monkeypatch.setattr(Engine, "up", up_and_extend)
    assert cos("resize", "cpu", "3", "-c", "dev", "--yes") == 0
    assert extended == [before + datetime.timedelta(hours=2)]
    text = f"{extended[0]:%Y-%m-%dT%H:%M:%SZ}"
    assert {node.name: node.deadline for node in find(place("us-east-1"), "dev")} == dict.fromkeys(ids(), text)
    assert len(ids()) == 4
    assert config.read("dev")["deadline"] == text


def test_a_node_that_is_to_end_does_not_shorten_an_extension(dev: Lab) -> None:
    before = datetime.datetime.fromisoformat(config.read("dev")["deadline"])
    dev.nodes.asleep = True
    tag = {"Key": "cos:deadline", "Value": "2026-01-01T10:00:00Z"}
    dev.cloud.ec2.create_tags(Resources=[ids()["cpu-1"]], Tags=[tag])
    assert running.extend("dev", 60) == before + datetime.timedelta(hours=1)
