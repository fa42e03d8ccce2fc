"""User data: what cloud-init says of it, and that it unpacks to a seed that starts."""

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.errors import LaunchError
from bootstrap.node.plan import NodeHardware, NodePlan
from bootstrap.node.user_data import LIMIT, render

PLAN = NodePlan(
    cluster="quick-otter",
    role="master",
    group="master",
    region="us-east-1",
    bucket="cos-quick-otter",
    kit="kit/" + "a" * 64,
    ttl_minutes=480,
    idle_minutes=30,
    master_host=None,
    spark_secret="cos-quick-otter-spark",
    expected=NodeHardware(instance_type="m7i.large", vcpus=2, memory_mib=8192),
)


def parsed(text: str) -> dict[str, Any]:
    assert text.startswith("#cloud-config\n")
    config: dict[str, Any] = json.loads(text.partition("\n")[2])
    return config


def schema(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What cloud-init's own check says of a text."""
    path.write_text(text)
    command = ["cloud-init", "schema", "--config-file", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cloud_init_accepts_it(tmp_path: Path) -> None:
    text = render(PLAN)
    accepted = schema(tmp_path / "user-data", text)
    assert accepted.returncode == 0, accepted.stderr
    assert schema(tmp_path / "user-data", text.replace('"ssh_pwauth": false', '"ssh_pwauth": [1]')).returncode != 0


def test_it_fits_with_room_and_is_the_same_each_time() -> None:
    long = replace(PLAN, spark_secret="arn:aws:secretsmanager:us-east-1:123456789012:secret:" + "s" * 100)
    assert len(render(long).encode()) < LIMIT - 1024
    assert render(PLAN) == render(PLAN)


def test_the_shutdown_comes_first() -> None:
    config = parsed(render(PLAN))
    assert next(iter(config)) == "bootcmd"
    for commands in (config["bootcmd"], config["runcmd"]):
        assert commands[0][2].startswith("shutdown -P +480 ")


def test_the_seed_unpacks_and_imports_with_the_standard_library_alone(tmp_path: Path) -> None:
    config = parsed(render(PLAN))
    seed = next(file for file in config["write_files"] if file["path"].endswith("seed.tar.gz"))
    (tmp_path / "seed.tar.gz").write_bytes(base64.b64decode(seed["content"]))
    shutil.unpack_archive(tmp_path / "seed.tar.gz", tmp_path)
    script = "import bootstrap.node.seed as seed; print(seed.__file__)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == str(tmp_path / "bootstrap/node/seed.py"), ran.stderr


def test_the_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    config = parsed(render(PLAN))
    (tmp_path / "plan.json").write_text(config["write_files"][0]["content"])
    assert NodePlan.read(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ttl_minutes": 0}, "ttl_minutes is 0"),
        ({"ttl_minutes": "long"}, "ttl_minutes is 'long'"),
        ({"idle_minutes": -1}, "idle_minutes is -1"),
        ({"role": "edge"}, "role is 'edge'"),
        ({"role": "worker"}, "master_host is None"),
        ({"master_host": "10.0.0.1"}, "master_host is '10.0.0.1'"),
        ({"kit": "kit/latest"}, "kit is 'kit/latest'"),
        ({"spark_secret": "s" * LIMIT}, "and EC2 takes 16384"),
    ],
)
def test_a_plan_no_node_could_follow_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LaunchError, match=sentence):
        render(replace(PLAN, **change))
