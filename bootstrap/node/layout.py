"""Where everything lies on a node, and what can be put in its place from outside.

`COS_ROOT` moves all of it below another directory, so that a node can live beside others on one machine.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# What the services see of the environment the node was set up in: endpoints and stand-ins, and never a credential.
INJECTED = (
    "COS_ROOT",
    "COS_PYTHON",
    "COS_USER",
    "AWS_ENDPOINT_URL",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "JAVA_HOME",
    "PATH",
)


class Layout(NamedTuple):
    """Paths on a node."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Layout":
        """The layout below `COS_ROOT`, which is `/` unless it is set."""
        return cls(Path(environment.get("COS_ROOT") or "/"))

    @property
    def plan(self) -> Path:
        """The node's plan."""
        return self.root / "etc/cos/plan.json"

    @property
    def environment(self) -> Path:
        """Variables of all our services."""
        return self.root / "etc/cos/environment"

    @property
    def spark_conf(self) -> Path:
        """Spark's configuration directory."""
        return self.root / "etc/cos/spark"

    @property
    def units(self) -> Path:
        """systemd's directory for an administrator's units."""
        return self.root / "etc/systemd/system"

    @property
    def seed(self) -> Path:
        """The modules that came with the user data."""
        return self.root / "opt/cos/seed"

    @property
    def kit(self) -> Path:
        """The fetched kit."""
        return self.root / "opt/cos/kit"

    @property
    def venv(self) -> Path:
        """The Python environment made of the kit."""
        return self.root / "opt/cos/venv"

    @property
    def state(self) -> Path:
        """What outlives a reboot: deadline, jobs, the master's recovery state, event logs."""
        return self.root / "var/lib/cos"

    @property
    def jobs(self) -> Path:
        """A directory for each job, on the master."""
        return self.state / "jobs"

    @property
    def files(self) -> Path:
        """What jobs were sent, in a directory by each thing's checksum."""
        return self.state / "files"

    @property
    def status(self) -> Path:
        """What became of the boot, as JSON."""
        return self.state / "status.json"

    @property
    def deadline(self) -> Path:
        """The last known deadline, for when metadata cannot be asked."""
        return self.state / "deadline"

    @property
    def spot_notice(self) -> Path:
        """There from a spot notice on, for whoever can write a checkpoint in time."""
        return self.root / "run/cos/spot-notice"

    @property
    def java(self) -> Path:
        """The Java of the kit."""
        return self.root / "opt/cos/java"

    @property
    def logs(self) -> Path:
        """Logs of boot, guard and daemons."""
        return self.root / "var/log/cos"

    @property
    def scratch(self) -> Path:
        """Spark's local directory; a link to the NVMe where the node has some."""
        return self.state / "scratch"

    @property
    def nvme(self) -> Path:
        """Where the striped NVMe is mounted."""
        return self.root / "mnt/cos"
