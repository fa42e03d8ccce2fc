import asyncio
import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bootstrap.node import user_data
from infra import launch
from infra.instances import facts
from infra.launch import Machine, Site
from infra.plan import example

MACHINE = Machine("worker", "gpu", "g6.xlarge", 100, efas=0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """What user data needs to know of a cluster."""
    config = example("gpu-single", {"kit": None, "kit_dir": str(tmp_path)})
    storage = SimpleNamespace(bucket="dev-data-1", kit="kit/" + "0" * 64)
    return cast("Site", SimpleNamespace(config=config, storage=storage, access=SimpleNamespace(spark_secret="dev")))


def text(site: Site, machine: Machine = MACHINE) -> str:
    async def value() -> str:
        return str(await launch.user_data(site, machine, "10.42.0.9").future())

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(value())


def test_newer_code_makes_no_other_user_data(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = text(site)
    pulled = {**user_data._modules(), "bootstrap/node/tell.py": b"# newer\n"}
    monkeypatch.setattr(user_data, "_modules", lambda: pulled)
    monkeypatch.setattr(launch, "facts", lambda name: facts(name).model_copy(update={"memory_mib": 16000}))
    assert text(site) == before
    larger = text(site, dataclasses.replace(MACHINE, type="g6.2xlarge"))
    assert '"instance_type\\": \\"g6.2xlarge' in larger

    site.storage.kit = "kit/" + "1" * 64
    assert text(site) != before, "with a new kit goes the new seed"
