"""A master and a worker boot by their user data: real daemons of Spark, a real kit, S3 and Secrets Manager by moto.

What systemd and cloud-init do, stand-ins do. The master is 127.0.0.2, the worker 127.0.0.3.
"""

import getpass
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from bootstrap import kit
from bootstrap.java import find_java
from bootstrap.node import spark
from bootstrap.node.activity import ask_page
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodeHardware, NodePlan
from bootstrap.node.user_data import render
from tests.bootstrap.node.conftest import BUCKET, keys, put_kit
from tests.bootstrap.node.stand_ins import Programs, processes_of
from tests.fixtures.cloud_init import cloud_init
from tests.fixtures.metadata import MetadataServer
from tests.fixtures.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "cos-boot-test-spark"
MASTER, WORKER = "127.0.0.2", "127.0.0.3"
MASTER_PAGE = "http://127.0.0.1:8080/json/"
TAG = "meta-data/tags/instance/cos:deadline"
SYSTEMCTL = Path(__file__).resolve().parents[2] / "fixtures/systemctl.py"


class Machine:
    """A node below a directory of its own, with its own metadata and its own stand-ins on PATH."""

    def __init__(self, root: Path, address: str, plan: NodePlan, aws: str) -> None:
        self.plan = plan
        self.layout = Layout(root)
        self.imds = MetadataServer()
        self.imds.entries["meta-data/instance-id"] = f"i-{plan.role}"
        self.imds.entries["meta-data/local-ipv4"] = address
        self.imds.entries[TAG] = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        (root / "programs").mkdir(parents=True)
        self.programs = Programs(root / "programs")
        for name in ("shutdown", "wall"):
            self.programs.add(name)
        self.programs.add("nvidia-smi", 'case "$*" in *index*) echo 0; echo 1;; *) echo Tesla T4; echo Tesla T4;; esac')
        shutil.copy(SYSTEMCTL, root / "programs/systemctl")
        (root / "programs/systemctl").chmod(0o755)
        self.environment = {
            "PATH": f"{root}/programs:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COS_ROOT": str(root),
            "COS_PYTHON": sys.executable,
            "COS_USER": getpass.getuser(),
            "JAVA_HOME": str(find_java()),
            "AWS_ENDPOINT_URL": aws,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds.endpoint,
        }

    def boot(self) -> int:
        return cloud_init(render(self.plan), self.layout.root, self.environment)

    def console(self) -> str:
        return (self.layout.root / "console").read_text()

    def pid(self, unit: str) -> int:
        return int((self.layout.root / "run/units" / unit).read_text())

    def end(self) -> None:
        for pid in processes_of(f"COS_ROOT={self.layout.root}\0"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def workers() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask_page(MASTER_PAGE)["workers"]
    return found


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, moto_endpoint: str, s3_client: Any
) -> Iterator[dict[str, Machine]]:
    """Both nodes, booted by their user data."""
    for port in (spark.MASTER_UI_PORT, spark.HISTORY_PORT):
        assert not listens("127.0.0.1", port), f"port {port} of this machine is in use"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "_fill", lambda *_: None)  # no packages: COS_PYTHON has them
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        ours = kit.build(tmp_path_factory.mktemp("kit"), python=here, machine=os.uname().machine)
    secrets_manager = boto3.client("secretsmanager", endpoint_url=moto_endpoint, region_name="us-east-1")
    secrets_manager.create_secret(Name=SECRET)
    plan = NodePlan(
        cluster="boot-test",
        role="master",
        group="master",
        region="us-east-1",
        bucket=BUCKET,
        kit=put_kit(s3_client, ours),
        ttl_minutes=60,
        idle_minutes=30,
        master_host=None,
        spark_secret=SECRET,
        expected=NodeHardware(instance_type="m7i.large", vcpus=1, memory_mib=1024),
    )
    gpus = NodeHardware(instance_type="g4dn.12xlarge", vcpus=1, memory_mib=1024, gpus=2, gpu_name="T4")
    plans = {"master": plan, "worker": replace(plan, role="worker", master_host=MASTER, group="gpu", expected=gpus)}
    root = tmp_path_factory.mktemp("nodes")
    machines = {
        name: Machine(root / name, address, plans[name], moto_endpoint)
        for name, address in (("master", MASTER), ("worker", WORKER))
    }
    try:
        for machine in machines.values():
            machine.imds.__enter__()
            assert machine.boot() == 0, machine.console()
        yield machines
    finally:
        for machine in machines.values():
            machine.end()
            machine.imds.__exit__()


def test_the_cluster_stands(cluster: dict[str, Machine], s3_client: Any) -> None:
    state = ask_page(MASTER_PAGE)
    assert state["url"] == f"spark://{MASTER}:7077"
    (worker,) = workers()
    assert (worker["host"], worker["state"]) == (WORKER, "ALIVE")
    assert worker["resources"]["gpu"]["addresses"] == ["0", "1"]
    for role, machine in cluster.items():
        status = json.loads(machine.layout.status.read_text())
        assert (status["state"], status["instance"]) == ("ready", f"i-{role}")
        assert {f"nodes/i-{role}/boot.log", f"nodes/i-{role}/status.json"} <= set(keys(s3_client))
        assert machine.programs.calls("shutdown")[:2] == ["-P +60", "-P +60"]
        assert f"ready: {role} of boot-test" in machine.console()


def test_only_what_must_listens(cluster: dict[str, Machine]) -> None:
    assert listens(MASTER, 7077)
    for address in ("127.0.0.1", MASTER, WORKER):
        assert not listens(address, 6066)  # submission by REST
    for port in (8080, 18080):
        until(lambda port=port: listens("127.0.0.1", port), f"port {port}")  # type: ignore[misc]
        assert not listens(MASTER, port)


def test_the_secret_is_in_one_file_a_node(cluster: dict[str, Machine], moto_endpoint: str) -> None:
    client = boto3.client("secretsmanager", endpoint_url=moto_endpoint, region_name="us-east-1")
    secret = client.get_secret_value(SecretId=SECRET)["SecretString"]
    assert len(secret) == 64
    for machine in cluster.values():
        conf = machine.layout.spark_conf / "spark-defaults.conf"
        files = [path for path in machine.layout.root.rglob("*") if path.is_file()]
        assert [path for path in files if secret.encode() in path.read_bytes()] == [conf]
        assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if secret.encode() in line]


def test_a_job_gets_a_gpu_and_leaves_its_events(cluster: dict[str, Machine], tmp_path: Path) -> None:
    master = cluster["master"]
    script = tmp_path / "job.py"
    script.write_text(
        "from pyspark import SparkContext, TaskContext\n"
        "spark = SparkContext.getOrCreate()\n"
        "gpu = lambda _: TaskContext.get().resources()['gpu'].addresses\n"
        "print('GPUs', spark.parallelize([0], 1).map(gpu).collect())\n"
    )
    conf = {"spark.executor.memory": "512m", "spark.executor.resource.gpu.amount": "1"}
    conf |= {"spark.task.resource.gpu.amount": "1", "spark.cores.max": "1"}
    command = [str(spark.spark_home(Path(sys.executable)) / "bin/spark-submit")]
    command += [option for name, value in conf.items() for option in ("--conf", f"{name}={value}")]
    environment = {**master.environment, "SPARK_CONF_DIR": str(master.layout.spark_conf)}
    ran = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.stdout.strip() in {"GPUs [['0']]", "GPUs [['1']]"}, ran.stderr
    assert list((master.layout.state / "events").glob("eventlog_v2_app-*"))


def test_a_wrong_secret_is_refused(cluster: dict[str, Machine], tmp_path: Path) -> None:
    worker = cluster["worker"]
    conf = shutil.copytree(worker.layout.spark_conf, tmp_path / "conf")
    own = ("spark.authenticate.secret", "spark.worker.resource")
    settings = (conf / "spark-defaults.conf").read_text().splitlines()
    settings = [line for line in settings if not line.startswith(own)]
    (conf / "spark-defaults.conf").write_text("\n".join([*settings, "spark.authenticate.secret wrong"]) + "\n")
    exports = (conf / "spark-env.sh").read_text()
    (conf / "spark-env.sh").write_text(exports.replace(str(worker.layout.spark_conf), str(conf)))
    program = str(spark.spark_home(Path(sys.executable)) / "bin/spark-class")
    command = [program, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.4", "--work-dir", str(tmp_path)]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        stranger = subprocess.Popen(
            [*command, f"spark://{MASTER}:7077"],
            env={**worker.environment, "SPARK_CONF_DIR": str(conf)},
            stdout=sink,
            stderr=sink,
        )
        try:
            until(lambda: "Failed to connect to master" in log.read_text(), "the refusal", 180.0)
            assert [entry["host"] for entry in workers()] == [WORKER]
        finally:
            stranger.kill()
            stranger.wait(30)


def test_another_boot_changes_nothing(cluster: dict[str, Machine]) -> None:
    worker = cluster["worker"]
    before = worker.pid("cos-worker.service")
    conf = (worker.layout.spark_conf / "spark-defaults.conf").read_bytes()
    assert worker.boot() == 0, worker.console()
    assert worker.pid("cos-worker.service") == before
    assert (worker.layout.spark_conf / "spark-defaults.conf").read_bytes() == conf


def test_a_node_that_falls_short_does_not_join(
    cluster: dict[str, Machine], tmp_path: Path, moto_endpoint: str, s3_client: Any
) -> None:
    plan = cluster["worker"].plan
    short = Machine(
        tmp_path / "short", "127.0.0.5", replace(plan, expected=replace(plan.expected, gpus=4)), moto_endpoint
    )
    short.imds.entries["meta-data/instance-id"] = "i-short"
    with short.imds:
        try:
            assert short.boot() == 1
        finally:
            short.end()
    sentence = "GPUs: 4 T4 expected, 2 Tesla T4 found"
    assert f"REFUSED: {sentence}" in short.console()
    status = json.loads(s3_client.get_object(Bucket=BUCKET, Key="nodes/i-short/status.json")["Body"].read())
    assert (status["state"], status["reasons"]) == ("refused", [sentence])
    assert sentence in s3_client.get_object(Bucket=BUCKET, Key="nodes/i-short/boot.log")["Body"].read().decode()
    assert not (short.layout.root / "run/units/cos-worker.service").exists()
    assert [entry["host"] for entry in workers()] == [WORKER]


def test_a_spot_notice_decommissions(cluster: dict[str, Machine]) -> None:
    worker = cluster["worker"]
    worker.imds.entries["meta-data/spot/instance-action"] = '{"action": "terminate", "time": "2026-11-26T18:00:00Z"}'
    until(
        lambda: [entry["state"] for entry in workers()] == ["DECOMMISSIONED"], "the worker to be decommissioned", 180.0
    )
    assert json.loads(worker.layout.spot_notice.read_text())["action"] == "terminate"


def test_the_deadline_ends_both_alone(cluster: dict[str, Machine], s3_client: Any) -> None:
    for machine in cluster.values():
        machine.imds.entries[TAG] = "2026-01-01T00:00:00Z"
        until(lambda: "-P now" in machine.programs.calls("shutdown"), "the shutdown")  # noqa: B023 - asked at once
    assert {"nodes/i-master/logs/spark/master.log", "nodes/i-worker/logs/spark/worker.log"} <= set(keys(s3_client))
