"""A cluster's whole life, each step by one command of the launcher on the lab's laptop."""

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import TEST, lenet
from tests.e2e.laptop import Laptop, workers
from tests.fixtures.pulumi_aws.inventory import inventory
from tests.lab import network
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

PROBE = re.compile(r"allreduce by ethernet: ([\d.]+) Gbit/s")


def test_a_life(lab: Lab) -> None:
    cos = Laptop(lab, "life")
    solver = lenet(lab.home / "life", max_iter=120, test_interval=60, snapshot=60)
    with lab.laptop():
        before = inventory(lab.cloud)

    cos("init", "--preset", "cpu-small", "--owner", "ada", *workers(3), *lab.settings())
    assert "an hour" in cos("plan").stdout
    assert "life is up: 4 nodes" in cos("up", "--yes").stdout
    checks = cos.answer("doctor", "--probe")
    assert {check["where"] for check in checks if check["level"] != "ok"} <= {"cluster"}, checks
    gbps = next(float(found[1]) for check in checks if (found := PROBE.search(check["message"])))
    assert 0.5 < gbps <= 1.0, "the links are of 1 Gbit/s"

    given = ("--solver", f"life/{solver.name}", "--model", "lenet.caffemodel")
    cos("train", *given, "--executors", "3")
    model = lab.home / "life" / "lenet.caffemodel"
    assert model.stat().st_size > 1_000_000, "the results have come"
    assert "3 ranks on cpu (gloo)" in cos("logs").stdout
    assert "accuracy" in cos("attach").stdout
    cos("train", *given, "--executors", "3", "--detach")
    assert cos.answer("cancel", "2")["state"] == "cancelled"
    assert [job["state"] for job in cos.answer("jobs")] == ["cancelled", "succeeded"]
    model.unlink()
    cos("fetch", "1")
    assert model.exists()

    tested = cos("test", *given, "--output", "tested.json").stdout
    accuracy = re.search(r"accuracy: ([\d.]+)", tested)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.85
    cos("features", *given, "--blobs", "ip1", "--label", "label", "--output", "features")
    written = (lab.home / "life" / "features").glob("part-*.json")
    assert sum(len(path.read_text().splitlines()) for path in written) == TEST

    assert len(cos.answer("resize", "cpu", "2", "--yes")["workers"]) == 2
    cos("stop", "--yes")
    assert {node["state"] for node in cos.answer("status")["nodes"]} <= {"stopped", "terminated"}
    assert not [pid for pid in _pids(lab) if pid], "what is stopped runs nothing"
    assert "life is up: 3 nodes" in cos("start").stdout
    cos("extend", "2h")
    assert cos.answer("cost")["usd_per_hour"] > 0.1
    cos("down", "--yes", "--delete-bucket")

    with lab.laptop():
        assert inventory(lab.cloud) - before == set()
    assert set(network.names(lab.prefix)) == {lab.prefix, f"{lab.prefix}-laptop", f"{lab.prefix}-stranger"}
    assert not [path for path in Path("/proc").glob("[0-9]*/root") if _is_below(path, lab.folder / "instances")]


def _pids(lab: Lab) -> list[int | None]:
    return [machine["pid"] for machine in lab.machines().values()]


def _is_below(link: Path, folder: Path) -> bool:
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:  # it ended meanwhile
        return False
