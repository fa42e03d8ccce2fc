import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bootstrap.clusters import doctor
from bootstrap.host import Host
from bootstrap.node import doctor as node_doctor
from bootstrap.node.context import Context
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodeHardware, NodePlan
from bootstrap.ssh.address import Address
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from tests.fixtures.command import known_cluster
from tests.fixtures.sshd import Server, free_port

WELL: dict[str, Any] = {
    "shortages": [], "driver": "595.91.07", "efa": 4, "expected_efa": 4, "clock_off": 0.1, "disks": {"/": 0.5},
    "services": {"cos-worker": "active"}, "ports": {"10.42.0.10:7077": True},
}  # fmt: skip


def test_a_node_that_is_well() -> None:
    assert {check.level for check in doctor.judge("gpu-0", WELL)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"efa": 0}, "error", "4 EFAs were asked for and 0 are there: TCP in their place is refused"),
        ({"shortages": ["GPUs: 8 expected, 7 found"]}, "error", "GPUs: 8 expected, 7 found"),
        ({"clock_off": 9.0}, "warning", "Its clock is 9 s off"),
        ({"disks": {"scratch": 0.02}}, "warning", "scratch has 2% free"),
        ({"services": {"cos-worker": "failed"}}, "error", "cos-worker is failed"),
        ({"ports": {"10.42.0.10:7077": False}}, "error", "It does not reach 10.42.0.10:7077"),
    ],
)
def test_a_node_that_is_not(changed: dict[str, Any], level: str, said: str) -> None:
    found = [check for check in doctor.judge("gpu-0", WELL | changed) if check.level != "ok"]
    assert [check.level for check in found] == [level]
    assert said in found[0].message


def test_a_bandwidth_is_held_against_the_link() -> None:
    assert doctor.bandwidth(310.0, 400.0, "efa").level == "ok"
    slow = doctor.bandwidth(9.0, 400.0, "efa")
    assert slow.level == "warning"
    assert "9 Gbit/s, 2% of the link's 400" in slow.message


def test_a_node_tells_of_itself(tmp_path: Path) -> None:
    hardware = NodeHardware(instance_type="c7i.xlarge", vcpus=10_000, memory_mib=1)
    plan = NodePlan(
        cluster="dev", role="worker", group="cpu", region="us-east-1", bucket="b", kit="kit/x", ttl_minutes=60,
        idle_minutes=0, master_host="10.42.0.10", spark_secret="s", expected=hardware,
    )  # fmt: skip
    context = Context(plan, Layout(tmp_path), None, None)  # type: ignore[arg-type] - nobody is asked
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened, closed = f"127.0.0.1:{server.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        told = node_doctor.examine(context, [opened, closed])
    assert told["shortages"] == [f"vCPUs: 10000 expected, {os.cpu_count()} found"]
    assert told["ports"] == {opened: True, closed: False}
    assert abs(told["clock"] - time.time()) < 5
    assert 0 < told["disks"]["/"] < 1
    assert told["driver"] is None
    json.dumps(told)


NODE = """
import json, pathlib, sys
from bootstrap.node import doctor
from bootstrap.node.context import Context
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodePlan

root = pathlib.Path(sys.argv[1])
context = Context(NodePlan.read(root / "plan.json"), Layout(root), None, None)
print(json.dumps(doctor.examine(context, sys.argv[2:])))
"""


def test_every_node_is_asked_over_ssh(sshd: Server, tmp_path: Path, cos_home: Path) -> None:
    hardware = NodeHardware(instance_type="c7i.xlarge", vcpus=10_000, memory_mib=1)
    plan = NodePlan(
        cluster="lab", role="worker", group="cpu", region="us-east-1", bucket="b", kit="kit/x", ttl_minutes=60,
        idle_minutes=0, master_host="127.0.0.1", spark_secret="s", expected=hardware,
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(plan.to_json())
    (tmp_path / "node.py").write_text(NODE)
    # In the place of a node's Python: `-m bootstrap.node.doctor` looks below the machine's own root.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path}/node.py {tmp_path} "$@"\n')
    python.chmod(0o700)

    @contextmanager
    def open_host(address: Address) -> Iterator[Host]:
        with Connection(address) as connection:
            yield SshHost(connection, [str(python)])

    checks = [*doctor.nodes(known_cluster(sshd, tmp_path, str(python)), open_host)]
    errors = {name: [check.message for check in checks if check.where == name] for name in ("master", "worker-0")}
    for name, port in (("master", 7078), ("worker-0", 7077)):
        assert f"vCPUs: 10000 expected, {os.cpu_count()} found" in errors[name]
        assert any(message.startswith("cos-guard is ") for message in errors[name])
        assert any(message.startswith(f"It does not reach 127.0.0.1:{port}") for message in errors[name])
    python.write_text("#!/bin/sh\necho no module of that name >&2\nexit 1\n")
    silent = [*doctor.nodes(known_cluster(sshd, tmp_path, str(python)), open_host)]
    assert {check.message for check in silent} == {"It cannot tell of itself: no module of that name"}


@pytest.mark.slow
def test_the_allreduce_is_measured() -> None:
    """Two real ranks of gloo on the loopback."""
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}"]
    ended = subprocess.run(
        [sys.executable, *torchrun, "-m", "bootstrap.clusters.allreduce", "ethernet", "127.0.0.1", "4"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert float(ended.stdout.split()[-1]) > 0
