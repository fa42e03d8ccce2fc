"""The launcher as a person on the lab's laptop uses it."""

import json
import subprocess
import time
from typing import Any

from tests.lab.lab import Lab


def workers(count: int, more: str = "") -> tuple[str, str]:
    """So many workers of one vCPU each, for `cos init`: a task a node, and no more of them than this machine can do."""
    return ("--set", f"workers=[{{name: cpu, type: m7a.medium, count: {count}, disk_gb: 50{more}}}]")


class Laptop:
    """Runs verbs on one cluster, and looks at what they say.

    Args:
        lab: The lab.
        cluster: The cluster's name.
    """

    def __init__(self, lab: Lab, cluster: str) -> None:
        self.lab, self.cluster = lab, cluster
        self._ids: dict[str, str] = {}

    def __call__(self, verb: str, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a verb to its end, which is to have this exit code, and print how long it took."""
        started = time.monotonic()
        ended = self.lab.cos(verb, *self._of_cluster(arguments))
        print(f"cos {verb} {' '.join(arguments)}: {time.monotonic() - started:.1f} s")
        assert ended.returncode == code, f"cos {verb}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def answer(self, verb: str, *arguments: str) -> Any:
        """What a verb tells a program."""
        return json.loads(self(verb, "--json", *arguments).stdout)

    def start(self, verb: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a verb."""
        return self.lab.start(verb, *self._of_cluster(arguments))

    def nodes(self) -> dict[str, str]:
        """The ids of the live nodes by their names, as `master` and `cpu-0`."""
        found = self.answer("status")["nodes"]
        self._ids = {node["name"]: node["id"] for node in found if node["state"] != "terminated"}
        return self._ids

    def on(self, node: str, *command: str) -> str:
        """Run a command on a node as root."""
        if node not in self._ids:
            self.nodes()
        return self.lab.on(self._ids[node], *command)

    def _of_cluster(self, arguments: tuple[str, ...]) -> list[str]:
        return ["--cluster", self.cluster, *arguments]
