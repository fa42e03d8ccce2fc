"""Units as systemd itself reads them, and Spark's configuration as text."""

import getpass
import json
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.node import spark, units
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodeHardware, NodePlan
from tests.bootstrap.node.stand_ins import Programs


@pytest.fixture
def node(tmp_path: Path) -> spark.Node:
    """A node whose environment has a spark-class that can be run."""
    program = tmp_path / "venv/lib/python3.12/site-packages/pyspark/bin/spark-class"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "venv/bin").mkdir()
    return spark.Node(
        address="10.0.1.5",
        cores=96,
        memory_mib=1_152_000,
        scratch=tmp_path / "scratch",
        python=tmp_path / "venv/bin/python",
        java_home=Path("/opt/cos/java/jre"),
    )


def worker(plan: NodePlan, gpus: int = 0) -> NodePlan:
    hardware = NodeHardware(instance_type="p4d.24xlarge", vcpus=96, memory_mib=1, gpus=gpus, gpu_name="A100")
    return replace(plan, role="worker", master_host="10.0.1.4", expected=hardware)


def verify(directory: Path, texts: dict[str, str]) -> subprocess.CompletedProcess[str]:
    paths = []
    for name, text in texts.items():
        (directory / name).write_text(text)
        paths.append(str(directory / name))
    return subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)


def test_systemd_has_nothing_to_say_against_them(plan: NodePlan, node: spark.Node, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    texts: dict[str, str] = {}
    for role in (plan, worker(plan)):
        texts |= units.service_units(role, layout, tmp_path / "cos.whl")
        texts |= units.spark_units(role, node, layout, "spark")
    assert sorted(texts) == [
        *("cos-boot.service", "cos-guard.service", "cos-history.service", "cos-master.service"),
        *("cos-sent.service", "cos-spot.service", "cos-worker.service"),
    ]
    verified = verify(tmp_path, texts)
    said = [line for line in verified.stderr.splitlines() if "cos-" in line]  # not what it says of this machine's own
    assert (verified.returncode, said) == (0, [])
    broken = {"cos-x.service": texts["cos-guard.service"].replace("ExecStart=/", "ExecStart=/nowhere/")}
    assert "cos-x.service" in verify(tmp_path, broken).stderr


def test_ours_run_on_the_images_python_out_of_the_wheel(plan: NodePlan, tmp_path: Path) -> None:
    text = units.service_units(plan, Layout(tmp_path), tmp_path / "cos.whl")["cos-guard.service"]
    assert f"ExecStart={sys.executable} -m bootstrap.node guard\n" in text
    assert f'Environment="PYTHONPATH={tmp_path}/cos.whl"\n' in text


def test_spark_is_not_started_by_systemd_itself(plan: NodePlan, node: spark.Node, tmp_path: Path) -> None:
    assert all("[Install]" not in text for text in units.spark_units(plan, node, Layout(tmp_path), "spark").values())


def test_nothing_listens_that_need_not(plan: NodePlan, node: spark.Node, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for role in (plan, worker(plan)):
        settings = spark.properties(role, node, layout, "s3cret")
        assert settings["spark.master.rest.enabled"] == "false"
        assert settings["spark.authenticate"] == "true"
        assert settings["spark.network.crypto.enabled"] == "true"
        assert settings["spark.ui.killEnabled"] == "false"
        assert "s3cret" not in " ".join(spark.daemon(role, node, role.role))
    assert spark.environment(plan, node, layout)["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert spark.environment(worker(plan), node, layout)["SPARK_LOCAL_IP"] == "10.0.1.5"


def test_a_worker_offers_its_gpus(plan: NodePlan, node: spark.Node, tmp_path: Path) -> None:
    settings = spark.properties(worker(plan, gpus=8), node, Layout(tmp_path), "s")
    assert settings["spark.worker.resource.gpu.amount"] == "8"
    assert not any("gpu" in name for name in spark.properties(worker(plan), node, Layout(tmp_path), "s"))


def test_the_secret_is_its_users_alone(plan: NodePlan, node: spark.Node, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for _ in range(2):  # another boot is no other configuration
        spark.write(plan, node, layout, "s3cret", getpass.getuser())
    conf = layout.spark_conf / "spark-defaults.conf"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert "spark.authenticate.secret s3cret\n" in conf.read_text()
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != conf]
    assert others
    assert not [path for path in others if "s3cret" in path.read_text(errors="replace")]


@pytest.mark.parametrize("gpus", [1, 8])
def test_the_discovery_script_speaks_sparks_json(tmp_path: Path, programs: Programs, gpus: int) -> None:
    programs.add("nvidia-smi", "\n".join(f"echo {index}" for index in range(gpus)))
    script = tmp_path / "gpus.sh"
    script.write_text(spark.GPU_SCRIPT)
    said = subprocess.run([shutil.which("sh") or "sh", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == {"name": "gpu", "addresses": [str(index) for index in range(gpus)]}


def test_a_driver_that_fails_is_no_empty_list(tmp_path: Path, programs: Programs) -> None:
    programs.add("nvidia-smi", "exit 9")
    script = tmp_path / "gpus.sh"
    script.write_text(spark.GPU_SCRIPT)
    assert subprocess.run(["sh", script], capture_output=True, check=False).returncode == 1
