"""What goes wrong in a cluster's life, on one cluster of the lab. The tests take turns in this order."""

import hashlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import lenet
from tests.e2e.laptop import Laptop, workers
from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.waiting import until
from tests.lab import network
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

TALK = """
import time
for number in range(60):
    print("line", number, flush=True)
    time.sleep(0.2)
"""
GIVEN = ("--solver", "faults/lenet_solver.prototxt")
ALL_LINES = [f"line {number}" for number in range(60)]


@pytest.fixture(scope="module")
def before(lab: Lab) -> set[str]:
    """What is in the account already: a second user's, of clusters whose names begin as ours, and what has no tag."""
    with lab.laptop():
        for cluster in ("dev-2", "lost-2"):
            _make_theirs(lab, cluster, [{"Key": "cos:cluster", "Value": cluster}, {"Key": "cos:owner", "Value": "bob"}])
        _make_theirs(lab, "untagged", [])
        return inventory(lab.cloud)


def _make_theirs(lab: Lab, name: str, tags: list[dict[str, str]]) -> None:
    def tagged(kind: str) -> dict[str, Any]:
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}

    ec2, s3, bucket = lab.cloud.ec2, lab.cloud.s3, f"theirs-{name}"
    ec2.create_security_group(GroupName=name, Description="of somebody else", **tagged("security-group"))
    ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, **tagged("volume"))
    s3.create_bucket(Bucket=bucket)
    if tags:
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})


@pytest.fixture(scope="module")
def cos(lab: Lab, before: set[str]) -> Laptop:
    """A cluster of a master and three workers on spot, whose `up` was killed in the middle, and then run again."""
    lenet(lab.home / "faults", max_iter=360, test_interval=180, snapshot=60)
    made = Laptop(lab, "dev")
    made("init", "--preset", "cpu-small", "--owner", "ada", *workers(3, ", market: spot"), *lab.settings())
    killed = made.start("up", "--yes")
    until(lambda: len(lab.ledger.calls("create")) > 15, "the first resources")
    _kill(killed)
    assert "dev is up: 4 nodes" in made("up", "--yes").stdout
    return made


def _kill(process: "subprocess.Popen[str]") -> None:
    """The laptop's lid: the launcher and all that it started are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def test_up_goes_on_after_it_was_killed(cos: Laptop) -> None:
    assert cos.nodes().keys() == {"master", "cpu-0", "cpu-1", "cpu-2"}
    assert not [check for check in cos.answer("doctor") if check["level"] == "error"]


def test_two_at_once(cos: Laptop) -> None:
    first = cos.start("up", "--yes")
    until(lambda: _holder(cos) == str(first.pid), "the first to begin")
    assert "works on dev: wait until it is done" in cos("up", "--yes", code=2).stderr
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, out + err


def _holder(cos: Laptop) -> str:
    """Who holds the cluster, or held it; to try its lock would hold it too."""
    return (cos.lab.home / ".cos/stacks/dev/lock").read_text()


def _cut(cos: Laptop) -> None:
    """Every ssh connection to the master breaks, of which there is one; new ones are taken."""
    cut = ("sh", "-c", "pkill -KILL -f '^sshd(-session)?: ubuntu' && echo cut || true")
    until(lambda: cos.on("master", *cut), "a connection to cut", 30)


def test_the_connection_breaks_while_logs_are_followed(cos: Laptop, lab: Lab) -> None:
    (lab.home / "talk.py").write_text(TALK)
    cos("submit", "--detach", "--name", "talks", "talk.py")
    with cos.start("logs", "--follow", "talks") as logs, cos.start("attach", "talks") as attached:
        assert logs.stdout is not None
        lines = [logs.stdout.readline().strip() for _ in range(5)]
        _cut(cos)
        time.sleep(2.0)
        _cut(cos)
        lines += logs.stdout.read().splitlines()
        assert logs.wait(30) == 0
        assert lines == ALL_LINES, "each line once"
        out, err = attached.communicate(timeout=120)
        assert attached.returncode == 0, err
        assert out.splitlines()[-60:] == ALL_LINES


def test_the_connection_breaks_while_files_are_pushed(cos: Laptop, lab: Lab) -> None:
    content = os.urandom(1 << 20) * 200
    (lab.home / "large").write_bytes(content)
    with cos.start("push", "--nodes", "all", "large", "/tmp/large") as push:  # noqa: S108 - on the node
        until(lambda: cos.on("master", "find", "/tmp", "-name", "*large*", "-size", "+1M"), "the first bytes")  # noqa: S108
        _cut(cos)
        out, err = push.communicate(timeout=300)
    assert push.returncode == 0, out + err
    wanted = hashlib.sha256(content).hexdigest()
    for node in cos.nodes():
        assert wanted in cos.on(node, "sha256sum", "/tmp/large")  # noqa: S108
        cos.on(node, "rm", "/tmp/large")  # noqa: S108 - memory, of all nodes at once


def _train(cos: Laptop, name: str, disturb: Callable[[], None] = lambda: None) -> bytes:
    """Train LeNet by two ranks, with something happening meanwhile; the bytes of the model."""
    model = cos.lab.home / "faults" / f"{name}.caffemodel"
    often = ("--", "-checkpoint_iterations", "10")
    arguments = (*GIVEN, "--model", model.name, "--executors", "2", "--name", name, "--detach", *often)
    job = cos("train", *arguments).stdout.strip()
    until(lambda: "Iteration 40" in _job_log(cos, job), "iteration 40", 180, lambda: _job_log(cos, job))
    disturb()
    cos("attach", job)
    cos("fetch", job)
    return model.read_bytes()


def _job_log(cos: Laptop, job: str) -> str:
    return cos.on("master", "sh", "-c", f"cat /var/lib/cos/jobs/{job}/log || true")


@pytest.fixture(scope="module")
def undisturbed(cos: Laptop) -> bytes:
    """What training gives where nothing happens, but that the laptop which asked for it dies."""
    model = "undisturbed.caffemodel"
    with cos.start("train", *GIVEN, "--model", model, "--executors", "2", "--name", "undisturbed") as train:
        until(lambda: [job for job in cos.answer("jobs") if job["name"] == "undisturbed"], "the job")
        _kill(train)
    cos("attach", "undisturbed")
    cos("fetch", "undisturbed")
    return (cos.lab.home / "faults" / model).read_bytes()


def test_the_laptop_dies_while_training(undisturbed: bytes) -> None:
    assert len(undisturbed) > 1_000_000


def test_a_worker_dies_while_training(cos: Laptop, undisturbed: bytes) -> None:
    def kill() -> None:
        # Of user spark: the shell that looks has the pattern in its own arguments.
        look = ("sh", "-c", "pgrep -u spark -f pyspark.daemon || :")
        busy = [node for node in ("cpu-0", "cpu-1", "cpu-2") if cos.on(node, *look)]
        assert len(busy) == 2, "a rank on each of two"
        cos.on(busy[-1], "pkill", "-KILL", "-u", "spark")

    assert _train(cos, "worker", kill) == undisturbed
    assert "new start" in cos("logs", "worker").stdout


def test_the_master_dies_while_training(cos: Laptop, undisturbed: bytes) -> None:
    def kill() -> None:
        cos.on("master", "pkill", "-KILL", "-f", "deploy.master.Master")

    assert _train(cos, "master", kill) == undisturbed
    until(lambda: cos.lab.cos("doctor", "--cluster", "dev").returncode == 0, "the master")


def test_two_of_three_spot_workers_are_reclaimed_while_training(cos: Laptop, lab: Lab, undisturbed: bytes) -> None:
    """One is left, and the job waits until `up` has replaced the others."""
    taken = [cos.nodes()[name] for name in ("cpu-1", "cpu-2")]

    def reclaim() -> None:
        lab.order(spot=taken)
        for node in taken:
            until(lambda node=node: "will terminate this node" in _log(lab, node), "the notice to be heard", 30)
        with lab.laptop():
            lab.cloud.ec2.terminate_instances(InstanceIds=taken)
        cos("up", "--yes")

    assert _train(cos, "reclaimed", reclaim) == undisturbed
    assert "new start" in cos("logs", "reclaimed").stdout


def _log(lab: Lab, node: str) -> str:
    return lab.on(node, "cat", "/var/log/cos/spot.log")


def test_a_node_that_boots_without_network(cos: Laptop, lab: Lab) -> None:
    """It waits for its kit, and joins."""
    lab.order(down=["dev-cpu-3"])
    with cos.start("resize", "cpu", "4", "--yes") as resize:
        until(lambda: len(_machines(lab, "dev")) == 5, "the new node")
        time.sleep(10.0)
        assert _workers(cos) == 3
        lab.order(down=[])
        out, err = resize.communicate(timeout=180)
    assert resize.returncode == 0, out + err
    assert _workers(cos) == 4
    cos("resize", "cpu", "3", "--yes")


def test_a_full_disk(cos: Laptop) -> None:
    scratch = "/var/lib/cos/scratch-on-root"
    node = next(name for name in cos.nodes() if name != "master")
    cos.on(node, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", scratch)
    cos.on(node, "install", "--directory", "--owner", "spark", f"{scratch}/spark", f"{scratch}/work")
    try:
        said = cos("train", *GIVEN, "--model", "full.caffemodel", "--executors", "3", code=1)
    finally:
        cos.on(node, "umount", "-l", scratch)
    assert "No space left on device" in said.stdout + said.stderr


def test_another_host_key_is_refused(cos: Laptop) -> None:
    key, anew = "/etc/ssh/ssh_host_ed25519_key", "pkill -HUP -o sshd"
    cos.on("master", "sh", "-c", f"mv {key} {key}.real && ssh-keygen -q -t ed25519 -N '' -f {key} && {anew}")
    try:
        assert "is not the pinned one" in cos("jobs", code=2).stderr
    finally:
        cos.on("master", "sh", "-c", f"mv {key}.real {key} && {anew}")
    until(lambda: cos.lab.cos("jobs", "--cluster", "dev").returncode == 0, "the master")


def test_a_wrong_secret_is_refused(cos: Laptop) -> None:
    """A worker that has another secret than the master does not join."""
    conf = "/etc/cos/spark/spark-defaults.conf"
    cos.on("cpu-1", "sed", "-i.real", "-E", "s/^(spark.authenticate.secret ).*/\\1wrong/", conf)
    cos.on("cpu-1", "systemctl", "stop", "cos-worker.service")
    cos.on("cpu-1", "systemctl", "start", "cos-worker.service")
    until(lambda: "Spark" in cos.on("cpu-1", "tail", "-n", "30", "/var/log/cos/spark/worker.log"), "the worker's log")
    until(lambda: _workers(cos) == 2, "the worker to be away")
    time.sleep(10.0)
    assert _workers(cos) == 2
    cos.on("cpu-1", "mv", f"{conf}.real", conf)
    cos.on("cpu-1", "systemctl", "stop", "cos-worker.service")
    cos.on("cpu-1", "systemctl", "start", "cos-worker.service")
    until(lambda: _workers(cos) == 3, "the worker to be back")


def _workers(cos: Laptop) -> int:
    page = cos.on("master", "curl", "--silent", "http://127.0.0.1:8080/json/")
    return page.count('"state" : "ALIVE"')


def test_a_stranger_gets_nowhere(cos: Laptop, lab: Lab) -> None:
    nodes = [node for node in cos.answer("status")["nodes"] if node["state"] == "running"]
    ports = (22, 7077, 7078, 8080, 8081, 18080, 4040)
    addresses = [address for node in nodes for address in (node["public_ip"], node["private_ip"]) if address]
    asked = list(itertools.product(addresses, ports))
    # A thread is where the one is that starts it.
    with network.entered(f"{lab.prefix}-stranger"), ThreadPoolExecutor(len(asked)) as threads:
        answered = threads.map(_answers, *zip(*asked, strict=True))
        assert not list(itertools.compress(asked, answered))
    master = next(node for node in nodes if node["name"] == "master")
    with lab.laptop():
        assert _answers(master["public_ip"], 22)
        assert not [port for port in ports[1:] if _answers(master["public_ip"], port)]
        options = ["-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "StrictHostKeyChecking=no"]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=0"]
        login = ["ssh", *options, f"ubuntu@{master['public_ip']}", "true"]
        refused = subprocess.run(login, capture_output=True, text=True, check=False, timeout=30)
    assert "Permission denied (publickey)" in refused.stderr


def _answers(address: str, port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(0.3)
        return client.connect_ex((address, port)) == 0


def test_a_node_whose_clock_is_wrong_ends_in_time(cos: Laptop, lab: Lab) -> None:
    """Its own clock is two hours late, and by that its deadline is far."""
    node = cos.nodes()["cpu-1"]
    _deadline(lab, node, datetime.now(UTC) + timedelta(hours=1.5))
    lab.order(ahead={"dev-cpu-1": 7200.0})
    until(lambda: _state(lab, node) == "terminated", "the end of the node", 60)
    assert cos.nodes().keys() == {"master", "cpu-0", "cpu-2"}


def test_a_deadline_ends_a_cluster_without_its_laptop(cos: Laptop, lab: Lab) -> None:
    nodes = cos.nodes()
    for node in nodes.values():
        _deadline(lab, node, datetime.now(UTC))
    for node in nodes.values():
        until(lambda node=node: _state(lab, node) == "terminated", "the end of the nodes", 60)


def _deadline(lab: Lab, node: str, moment: datetime) -> None:
    tag = {"Key": "cos:deadline", "Value": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    with lab.laptop():
        lab.cloud.ec2.create_tags(Resources=[node], Tags=[tag])


def _state(lab: Lab, node: str) -> str:
    with lab.laptop():
        found = lab.cloud.ec2.describe_instances(InstanceIds=[node])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_down_is_killed_and_run_again(cos: Laptop, lab: Lab, before: set[str]) -> None:
    down = cos.start("down", "--yes", "--force")
    until(lambda: len(lab.ledger.calls("delete")) > 5, "the first removals")
    _kill(down)
    cos("down", "--yes", "--force", "--delete-bucket")
    assert _changes(lab, before) == set(), "what is the cluster's goes, and what is another's stays"
    assert "Nothing of dev is there" in cos("sweep").stdout


def _changes(lab: Lab, before: set[str]) -> set[str]:
    with lab.laptop():
        changes = inventory(lab.cloud) ^ before
    return {name for name in changes if not name.startswith("sgr-")}


def test_a_node_that_lacks_gpus_is_named(lab: Lab) -> None:
    short = Laptop(lab, "short")
    lab.order(lacking={"short-gpu-0": {"gpus": 1, "efa_interfaces": 1}})
    group = "workers=[{name: gpu, type: p4d.24xlarge, count: 1, disk_gb: 200}]"
    short("init", "--preset", "efa-a100", "--owner", "ada", "--set", group, *lab.settings())
    said = short("up", "--yes", code=1).stderr
    assert "does not join" in said
    assert "GPUs: 8 A100 expected, 7 NVIDIA A100 found" in said
    short("down", "--yes", "--force", "--delete-bucket")


def test_a_lost_state(lab: Lab, before: set[str]) -> None:
    """A cluster of which the laptop knows nothing is found, and ended, by its tag alone."""
    lost = Laptop(lab, "lost")
    lost("init", "--preset", "cpu-small", "--owner", "ada", *lab.settings())
    with lost.start("up", "--yes") as up:
        until(lambda: _machines(lab, "lost"), "the first node")
        _kill(up)
    for path in Path(lab.home, ".cos/state/.pulumi").glob("stacks/**/lost.*"):
        path.unlink()
    assert "The name lost is taken" in lost("up", "--yes", code=2).stderr
    lost("sweep", "--remove", "--yes", "--delete-bucket")
    assert "Nothing of lost is there" in lost("sweep").stdout
    until(lambda: not _machines(lab, "lost"), "the namespaces to go")
    assert not _changes(lab, before), "what is another's stays"


def _machines(lab: Lab, cluster: str) -> list[str]:
    with lab.laptop():
        pages = lab.cloud.ec2.describe_instances(Filters=[{"Name": "tag:cos:cluster", "Values": [cluster]}])
    own = {instance["InstanceId"] for entry in pages["Reservations"] for instance in entry["Instances"]}
    return sorted(own & lab.machines().keys())
