"""`up` in a process of its own, as the command line's is.

A program whose resource failed outlives its `up` in the process, and meddles with the next one there.

    python -m tests.infra.engine.apart < {"name": …, "work": …, "home": …, "environment": {…}}
"""

import json
import subprocess
import sys

from pulumi import automation

from infra import program
from tests.fixtures.pulumi_engine import Engine

_SECONDS = 120


def up_apart(engine: Engine, stack: automation.Stack) -> str:
    """Run a cluster's `up`, which is to fail; returns what it said."""
    asked = {
        "name": stack.name,
        "work": stack.workspace.work_dir,
        "home": stack.workspace.pulumi_home,
        "environment": dict(engine.environment),
    }
    command = [sys.executable, "-m", "tests.infra.engine.apart"]
    ended = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert ended.returncode == 1, ended.stderr
    return ended.stdout


def main(asked: dict[str, object]) -> int:
    """Do it."""
    options = automation.LocalWorkspaceOptions(
        work_dir=str(asked["work"]),
        pulumi_home=str(asked["home"]),
        env_vars=asked["environment"],  # type: ignore[arg-type] # JSON
        secrets_provider="passphrase",
    )
    stack = automation.select_stack(str(asked["name"]), project_name="cos", program=program.main, opts=options)
    try:
        stack.up()
    except automation.CommandError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
