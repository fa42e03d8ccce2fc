"""A test of the tests: what protects a cluster is taken away, and a test in the lab has to see it.

    python -m tests.lab.mutations [NUMBER ...]

Each mutation is made in a copy of the checkout. It takes two minutes each, and needs root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
_LEFT_OUT = (".git", ".venv", ".pulumi-cli", ".java", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_SECONDS = 900


class Mutation(NamedTuple):
    """One line of ours that is another one.

    Attributes:
        what: What is lost.
        file: Where.
        before: The text, which is there once.
        after: What stands there instead.
        test: The test that has to fail.
    """

    what: str
    file: str
    before: str
    after: str
    test: str


MUTATIONS = (
    Mutation(
        "host keys are pinned to nothing",
        "bootstrap/ssh/connection.py",
        "        for kind, text in address.host_keys:\n",
        "        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())\n        for kind, text in ():\n",
        "test_another_host_key_is_refused",
    ),
    Mutation(
        "a node goes by its own clock",
        "bootstrap/node/imds.py",
        "return time.time() + self._ahead",
        "return time.time()",
        "test_a_node_whose_clock_is_wrong_ends_in_time",
    ),
    Mutation(
        "Spark's daemons take whoever comes",
        "bootstrap/node/spark.py",
        '"spark.authenticate": "true"',
        '"spark.authenticate": "false"',
        "test_a_wrong_secret_is_refused",
    ),
    Mutation(
        "ssh is open to the world",
        "infra/access.py",
        "cidr_ipv4=address,",
        'cidr_ipv4="0.0.0.0/0",',
        "test_a_stranger_gets_nowhere",
    ),
    Mutation(
        "GPUs are not counted",
        "bootstrap/node/hardware.py",
        "    if len(found) >= expected:\n        return []\n",
        "    if found:\n        return []\n",
        "test_a_node_that_lacks_gpus_is_named",
    ),
)


def main(numbers: list[str]) -> int:
    """Try these, or all; 1 where one was not caught."""
    missed = []
    for number in map(int, numbers or range(1, len(MUTATIONS) + 1)):
        mutation = MUTATIONS[number - 1]
        caught = _is_caught(mutation)
        print(f"{number}. {mutation.what}: {'caught by' if caught else 'NOT caught by'} {mutation.test}", flush=True)
        missed += [] if caught else [number]
    return int(bool(missed))


def _is_caught(mutation: Mutation) -> bool:
    with tempfile.TemporaryDirectory(prefix="cos-mutation-") as folder:
        copy = Path(folder, "cos")
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        for name in (".venv", ".pulumi-cli"):
            (copy / name).symlink_to(REPOSITORY / name)
        file = copy / mutation.file
        text = file.read_text()
        if text.count(mutation.before) != 1:
            raise SystemExit(f"{mutation.file} has changed: write the mutation anew ({mutation.what})")
        file.write_text(text.replace(mutation.before, mutation.after))
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "lab", "-k", mutation.test, "tests/e2e"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        ended = subprocess.run(
            pytest, cwd=copy, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        # A fixture that fails would prove nothing.
        return f"FAILED tests/e2e/test_faults.py::{mutation.test}" in ended.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
