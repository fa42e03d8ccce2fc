import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootstrap.errors import LaunchError
from bootstrap.local_cluster import LocalCluster
from bootstrap.processes import Supervised
from bootstrap.spark_home import LOOPBACK, spark_environment, spark_home
from tests.fixtures.cluster import run_on
from tests.fixtures.waiting import until

pytestmark = pytest.mark.slow

BARRIER_JOB = """
import json, os, sys
from pathlib import Path
from pyspark import BarrierTaskContext, SparkContext

def rank(rows):
    context = BarrierTaskContext.get()
    yield context.partitionId(), context.allGather(os.getcwd()), sys.executable

spark = SparkContext.getOrCreate()
ranks = spark.parallelize(range(2), 2).barrier().mapPartitions(rank).collect()
secret = spark.getConf().get("spark.authenticate.secret")
told = []
for file in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        told += [str(file)] if secret.encode() in file.read_bytes() else []
    except OSError:
        pass
print(json.dumps({"ranks": ranks, "told": told, "arguments": sys.argv[1:]}))
spark.stop()
sys.exit(3)
"""


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes that name the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = os.fsdecode(file.read_bytes()).replace("\0", " ")
        except OSError:
            continue
        found += [line] if str(directory) in line else []
    return found


def listening_addresses(directory: Path) -> set[str]:
    """The addresses, in the kernel's hexadecimal, on which the processes of the directory listen."""
    sockets = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(directory) in cmdline.read_bytes():
                sockets |= {os.readlink(file) for file in (cmdline.parent / "fd").iterdir()}
        except OSError:
            continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def test_a_barrier_stage_spans_the_workers(local_cluster: LocalCluster, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(BARRIER_JOB)
    finished = run_on(local_cluster, script, "-conf", "a b.prototxt")
    assert finished.code == 3, finished
    told = json.loads(finished.output)
    assert told["told"] == [], "the secret stands in arguments"
    assert told["arguments"] == ["-conf", "a b.prototxt"]
    ranks, places, pythons = zip(*told["ranks"], strict=True)
    assert ranks == (0, 1)
    assert {Path(place).relative_to(local_cluster.directory).parts[0] for place in places[0]} == {
        "worker-0",
        "worker-1",
    }
    assert set(pythons) == {sys.executable}
    assert finished.log == ""


def test_it_listens_on_the_loopback_alone(local_cluster: LocalCluster) -> None:
    addresses = listening_addresses(local_cluster.directory)
    ipv4, mapped = "0100007F", "0000000000000000FFFF00000100007F"  # 127.0.0.1, plain and as IPv6 has it
    assert addresses
    assert addresses <= {ipv4, mapped}


def test_the_secret_is_this_users_alone(local_cluster: LocalCluster) -> None:
    lines = local_cluster.properties_file.read_text().splitlines()
    secret = next(line.partition("=")[2] for line in lines if line.startswith("spark.authenticate.secret="))
    holders = []
    for file in local_cluster.directory.rglob("*"):
        if file.is_file() and secret.encode() in file.read_bytes():
            holders.append(file.name)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(holders) == [f"{name}.properties" for name in ("application", "master", "worker-0", "worker-1")]
    assert stat.S_IMODE(local_cluster.directory.stat().st_mode) == 0o700
    assert secret not in str(local_cluster.submit_conf())


def test_a_wrong_secret_is_refused(local_cluster: LocalCluster, tmp_path: Path) -> None:
    properties = tmp_path / "wrong.properties"
    properties.write_text("spark.authenticate=true\nspark.authenticate.secret=guessed\n")
    command = [str(spark_home() / "bin" / "spark-class"), "org.apache.spark.deploy.worker.Worker", "--host", LOOPBACK]
    command += ["--work-dir", str(tmp_path), "--properties-file", str(properties), local_cluster.master_url]
    before = local_cluster.master_log.stat().st_size
    with (tmp_path / "log").open("wb") as log:
        environment = spark_environment({"SPARK_LOCAL_IP": LOOPBACK})
        stranger = Supervised(command, environment=environment, stdout=log, stderr=log)
    try:
        refusal = "digest response format violation. Mismatched response"
        until(lambda: refusal in local_cluster.master_log.read_text()[before:], "the master to refuse the worker")
        assert local_cluster.live_workers() == 2
    finally:
        stranger.stop()


def test_what_a_killed_worker_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_MASTER_OPTS", "-Dof.another.cluster -XX:NoSuchOption")
    with LocalCluster(workers=2, gpus=2, directory=tmp_path) as cluster:
        workers = cluster.master_state()["workers"]
        gpus = [worker["resources"]["gpu"]["addresses"] for worker in workers]
        assert sorted(gpus) == [["0", "1"], ["2", "3"]]
        cluster.kill_worker(0)
        until(lambda: cluster.live_workers() == 1, "the master to miss the worker")
        directory = cluster.directory
        assert len(processes_of(directory)) == 4  # master, worker and their supervisors
    assert processes_of(directory) == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LaunchError, match="not running"):
        cluster.properties_file  # noqa: B018


def test_a_worker_that_dies_at_start_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(
        LaunchError, match=r"The worker-0 ended with exit code 1 at start\.\n(.*\n)+.*Memory is below 1MB"
    ):
        LocalCluster(workers=1, memory="1k", directory=tmp_path).start()
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_start_beyond_its_limit_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"Waited 0\.1 s for the master's address in its log, in vain"):
        LocalCluster(workers=1, directory=tmp_path, start_seconds=0.1).start()
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_it_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    owner = f"""
import time
from pathlib import Path
from bootstrap.local_cluster import LocalCluster
with LocalCluster(workers=1, directory=Path({str(tmp_path)!r})) as cluster:
    print("up", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", owner]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    until(lambda: not list(tmp_path.iterdir()), "the directory to go")
    until(lambda: not processes_of(tmp_path), "the last supervisor to go")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cores": 0}, {"gpus": -1}])
def test_a_cluster_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match="needs a worker and a core"):
        LocalCluster(**wrong)


@pytest.mark.parametrize("memory", ["2", "lots", "-1g", "2 g"])
def test_memory_without_a_unit_is_refused(memory: str) -> None:
    with pytest.raises(LaunchError, match="is no amount of memory"):
        LocalCluster(memory=memory)
