"""Stand-ins for programs on a node, which note how they were called, and a look at what runs."""

import os
from pathlib import Path


class Programs:
    """Programs on PATH that do as they are told and note each call.

    Args:
        directory: Comes first on PATH.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "calls.log"

    def add(self, name: str, script: str = "") -> None:
        """Make a program of a shell script; the call is noted first."""
        path = self._directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self._log}"\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """The arguments of each call so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def processes_of(text: str) -> list[int]:
    """Processes whose environment has a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if os.fsencode(text) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # not ours, or ended meanwhile
            continue
    return found
