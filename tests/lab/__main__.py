"""`python -m tests.lab [COMMAND ...]`: a lab, and a shell (or a command) on its laptop, until that ends."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bootstrap.cli.lab import LAB
from tests.lab.lab import REPOSITORY, Lab

WORDS = """This shell is on the laptop of a lab: `cos` makes clusters of namespaces here, and costs nothing.

  cos init --cluster dev --preset cpu-small {settings}
  cos up --cluster dev

Another terminal gets there by `cos --lab VERB …`. {folder} has the consoles (instances/ID/console). With the shell all
of it ends.
"""


def main() -> int:
    """Run the command there; its exit code."""
    if os.geteuid() != 0:
        print("The lab is made of network namespaces, which root alone may make: run it by sudo.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="cos-lab-") as folder, Lab(Path(folder)) as lab:
        environment = {**lab.environment, "PYTHONPATH": str(REPOSITORY), "PS1": "lab$ "}
        if not sys.argv[1:]:
            print(WORDS.format(settings=" ".join(lab.settings()), folder=folder))
        command = sys.argv[1:] or ["bash", "--norc"]
        with lab.laptop(), _announced(lab):
            return subprocess.run(command, cwd=lab.home, env=environment, check=False).returncode


@contextlib.contextmanager
def _announced(lab: Lab) -> Iterator[None]:
    """Let `cos --lab` find the lab."""
    told = {"namespace": f"{lab.prefix}-laptop", "environment": lab.environment}
    with open(os.open(LAB, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(told, file)
    try:
        yield
    finally:
        LAB.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
