"""A cluster whose making fails at any one resource can be finished, and can be removed."""

from pathlib import Path

import pytest

from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.pulumi_aws.ledger import Fault
from tests.fixtures.pulumi_engine import Engine
from tests.infra.engine.apart import failing_up
from tests.infra.engine.cluster import cluster_stack

pytestmark = pytest.mark.long


@pytest.mark.timeout(600)
def test_a_failure_at_any_one_resource(engine: Engine, kit: Path, subtests: pytest.Subtests) -> None:
    cloud = engine.cloud()
    before = inventory(cloud)
    stack = cluster_stack(engine, "cpu-small", kit, "failures")
    engine.ledger.forget()
    stack.up()
    stack.destroy()
    for number, call in enumerate(engine.ledger.calls("create")):
        with subtests.test(f"{call.kind} {call.name}"):
            moment = "after" if number % 2 else "before"
            engine.ledger.fail(Fault(name=call.name, kind=call.kind, moment=moment, message="NoLuck: not this time"))
            try:
                assert "NoLuck: not this time" in failing_up(engine, stack)
            finally:
                engine.ledger.fail()
            stack.up()
            stack.destroy()
            assert inventory(cloud) == before
