"""`cos --lab VERB …`: the same on the laptop of the lab that `make lab-shell` keeps up, where AWS is namespaces."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import LaunchError
from bootstrap.python_path import environment

# Who keeps a lab up writes it: the laptop's `namespace`, and its `environment`.
LAB = Path("/run/cos-lab.json")


def enter(arguments: Sequence[str]) -> None:
    """Become `cos` with these arguments there; the folder stays.

    Raises:
        LaunchError: No lab is up, or it is another user's.
    """
    try:
        lab = json.loads(LAB.read_text())
    except FileNotFoundError:
        raise LaunchError("No lab is up: run `make lab-shell` in the project's folder, as root.") from None
    except PermissionError:
        raise LaunchError("The lab that is up is root's: run this as root too.") from None
    command = ["nsenter", f"--net=/run/netns/{lab['namespace']}", sys.executable, "-m", "bootstrap.cli", *arguments]
    os.execvpe(command[0], command, {**environment(), **lab["environment"]})  # noqa: S606 - a list, and no shell
