"""A cluster of AWS from its configuration to nothing left, by the verbs, on Pulumi's real engine and moto."""

import json

import pytest

from bootstrap.cluster import load
from tests.bootstrap.clusters.conftest import Lab
from tests.fixtures.command import cos
from tests.fixtures.living_nodes import HOST_KEY, bucket_of
from tests.fixtures.pulumi_aws.inventory import inventory

pytestmark = pytest.mark.slow


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> object:
    capfd.readouterr()
    code = cos(*arguments, "--json")
    out, err = capfd.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_a_life(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    before = inventory(lab.cloud)
    assert lab.init() == 0
    assert cos("up", "-c", "dev", "--yes") == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert "dev is up: 3 nodes" in out
    assert "created Instance dev-cpu-1" in err
    facts = load("dev")
    assert facts.host_keys == {node.id: (HOST_KEY,) for node in (facts.master, *facts.workers)}
    assert facts.bucket == bucket_of(lab.cloud, "dev")

    state = answer(capfd, "status", "-c", "dev")
    assert [(node["name"], node["readiness"]) for node in state["nodes"]] == [
        ("master", "ready"), ("cpu-0", "ready"), ("cpu-1", "ready"),
    ]  # fmt: skip

    assert cos("down", "-c", "dev", "--yes", "--delete-bucket") == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert "Nothing billable of dev is left in us-east-1. It cost $0." in out
    assert "3 nodes save logs and models" in err
    assert inventory(lab.cloud) == before
