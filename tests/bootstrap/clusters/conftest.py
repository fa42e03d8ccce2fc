import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bootstrap import teardown
from bootstrap.cli import clusters
from bootstrap.clusters import readiness, running
from tests.fixtures.command import cos
from tests.fixtures.living_nodes import LivingNodes, living_nodes
from tests.fixtures.pulumi_aws.kinds import Cloud
from tests.fixtures.pulumi_engine import Engine, engine, moto_address

__all__ = ["engine", "moto_address"]

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPC4RzIyRJkkCEgZH7IMYFR2cJ6WdWMBcZ2Cqy3pNg0t tests"


class Lab(NamedTuple):
    """An empty account, the launcher's home in it, and nodes that live."""

    engine: Engine
    cloud: Cloud
    nodes: LivingNodes
    folder: Path

    def init(self, name: str = "dev", *more: str, has_kit: bool = True) -> int:
        """Configure a small cluster, with a kit that is there."""
        key = self.folder / "key.pub"
        key.write_text(PUBLIC_KEY)
        kit = [f"kit_dir={a_kit(self.folder / 'kit')}"] if has_kit else []
        settings = [f"ami={self.engine.image()}", *kit, *more]
        options = [part for setting in settings for part in ("--set", setting)]
        return cos(
            "init", "-c", name, "--preset", "cpu-small", "--owner", "ada", "--ssh-from", "203.0.113.7/32",
            "--ssh-key", str(key), *options,
        )  # fmt: skip


def a_kit(folder: Path, wheel: bytes = b"wheel") -> Path:
    """A kit as far as Pulumi looks into it."""
    folder.mkdir(exist_ok=True)
    (folder / "cos.whl").write_bytes(wheel)
    entry = {"name": "cos.whl", "sha256": hashlib.sha256(wheel).hexdigest(), "size": len(wheel)}
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    return folder


@pytest.fixture
def lab(engine: Engine, cos_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    variables = {
        **engine.environment,
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": engine.address,
        "PULUMI_HOME": str(engine.folder / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for module in (readiness, running, teardown):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(clusters, "MASTER_SECONDS", 0.1)  # their addresses are nobody's
    cloud = engine.cloud()
    with living_nodes(cloud) as nodes:
        yield Lab(engine, cloud, nodes, tmp_path)
    engine.reset_account()  # EC2 tells of terminated nodes for a while, and the next test's are named as these
