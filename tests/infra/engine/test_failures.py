"""A cluster whose making fails at any one resource can be finished, and can be removed."""

from pathlib import Path

import pytest
from pulumi.automation import Stack

from tests.fixtures.pulumi_aws.inventory import inventory
from tests.fixtures.pulumi_aws.ledger import Fault
from tests.fixtures.pulumi_engine import Engine
from tests.infra.engine.apart import failing_up
from tests.infra.engine.cluster import cluster_stack

# A cluster that was finished is like any other: every so many are removed to show that.
REMOVED = 5

pytestmark = pytest.mark.long


@pytest.mark.timeout(900)
def test_a_failure_at_any_one_resource(engine: Engine, kit: Path, subtests: pytest.Subtests) -> None:
    cloud = engine.cloud()
    before = inventory(cloud)
    stack = cluster_stack(engine, "cpu-small", kit, "failures")
    engine.ledger.forget()
    stack.up()
    whole = _resources(stack), len(inventory(cloud) - before)
    stack.destroy()
    nothing = stack.export_stack()
    for number, call in enumerate(engine.ledger.calls("create")):
        with subtests.test(f"{call.kind} {call.name}"):
            before = inventory(cloud)
            moment = "after" if number % 2 else "before"
            engine.ledger.fail(Fault(name=call.name, kind=call.kind, moment=moment, message="NoLuck: not this time"))
            try:
                assert "NoLuck: not this time" in failing_up(engine, stack)
            finally:
                engine.ledger.fail()
            stack.up()
            assert (_resources(stack), len(inventory(cloud) - before)) == whole
            if number % REMOVED == 0:
                stack.destroy()
                assert inventory(cloud) == before
        engine.reset_account()
        stack.import_stack(nothing)


def _resources(stack: Stack) -> set[str]:
    return {each["urn"] for each in stack.export_stack().deployment["resources"]}
