"""`up` in a process of its own, as the command line's is.

A program whose resource failed outlives its `up` in the process, and meddles with the next one there.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

from pulumi import automation

from infra import program
from tests.fixtures.pulumi_engine import Engine

_SECONDS = 120


def failing_up(engine: Engine, stack: automation.Stack, main: Callable[[], None] = program.main) -> str:
    """Run a stack's `up`, which is to fail, by the program `main`, found by its name; returns what it said."""
    # Forked from a server that has imported everything once: the program's modules take seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        workspace = stack.workspace
        where = (workspace.work_dir, str(workspace.pulumi_home), dict(engine.environment))
        done = pool.submit(_up, main, stack.name, *where)
        return done.result(timeout=_SECONDS)


def _up(main: Callable[[], None], name: str, work: str, home: str, environment: Mapping[str, str]) -> str:
    options = automation.LocalWorkspaceOptions(
        work_dir=work, pulumi_home=home, env_vars=dict(environment), secrets_provider="passphrase"
    )
    stack = automation.select_stack(name, project_name="cos", program=main, opts=options)
    try:
        stack.up()
    except automation.CommandError as error:
        return str(error)
    raise AssertionError(f"up of {name} did not fail")
