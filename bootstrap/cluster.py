"""A cluster as the launcher knows it: what its stack exports, and how its nodes prove who they are.

`clusters/NAME.json` below the launcher's home holds it, so that no verb has to ask AWS or Pulumi where a node is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bootstrap import home
from bootstrap.errors import LaunchError
from bootstrap.jobs.record import MasterTarget
from bootstrap.ssh.address import Address, Limits
from bootstrap.ssh.host_keys import HostKey

LOCAL = "local"

_SPARK_PORT = 7077


class NodeFacts(BaseModel):
    """One node, as `infra.outputs.Node` tells of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    role: Literal["master", "worker"]
    group: str
    private_ip: str
    public_ip: str | None = None


class Cluster(BaseModel):
    """One cluster.

    Attributes:
        cluster: its name.
        region: of AWS.
        bucket: the stack's, empty where there is none.
        ssh_user: the login.
        ssh_via: `public` by the master's address, `ssm` through a session.
        master: the master.
        workers: the workers.
        host_keys: by node id, lines as in a `.pub` file.
        key_file: the private key to log in with; None asks the agent.
        ssh_port: of every node's sshd.
        python: the Python on the nodes that has this package.
        sudo: whether the login has to become root to start jobs.
        job_user: whose the jobs are; None leaves them to whoever starts them.
        root: the directory of jobs and uploads on the nodes.
        spark_master: Spark's master; None is the standalone one on the master node.
        properties_file: Spark's properties on the master node, its secret included.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    cluster: str
    region: str = ""
    bucket: str = ""
    ssh_user: str
    ssh_via: Literal["public", "ssm"] = "public"
    master: NodeFacts
    workers: tuple[NodeFacts, ...] = ()
    host_keys: dict[str, tuple[str, ...]] = {}
    key_file: str | None = None
    ssh_port: int = 22
    python: str = "/opt/cos/venv/bin/python"
    sudo: bool = True
    job_user: str | None = "spark"
    root: str = "/var/lib/cos"
    spark_master: str | None = None
    properties_file: str | None = "/etc/cos/spark/spark-defaults.conf"

    @property
    def target(self) -> MasterTarget:
        """Where Spark is for a job on the master."""
        url = self.spark_master or f"spark://{self.master.private_ip}:{_SPARK_PORT}"
        return MasterTarget(master=url, properties_file=self.properties_file)

    def addresses(self, limits: Limits | None = None) -> list[Address]:
        """The nodes, the master first; the workers are behind it."""
        limits = limits or Limits()
        master = self._address("master", self.master, limits)
        workers = (
            self._address(f"worker-{index}", node, limits, jump=master) for index, node in enumerate(self.workers)
        )
        return [master, *workers]

    def _address(self, name: str, node: NodeFacts, limits: Limits, jump: Address | None = None) -> Address:
        host = node.private_ip if jump else node.public_ip or (node.id if self.ssh_via == "ssm" else node.private_ip)
        return Address(
            name,
            host,
            self.ssh_user,
            tuple(HostKey.parse(line) for line in self.host_keys.get(node.id, ())),
            port=self.ssh_port,
            key_file=None if self.key_file is None else Path(self.key_file).expanduser(),
            jump=jump,
            proxy=self._session(node) if self.ssh_via == "ssm" and jump is None else (),
            limits=limits,
        )

    def _session(self, node: NodeFacts) -> tuple[str, ...]:
        """The command whose stdin and stdout lead to a node's sshd through AWS Systems Manager."""
        document = ("--document-name", "AWS-StartSSHSession", "--parameters", f"portNumber={self.ssh_port}")
        return ("aws", "ssm", "start-session", "--region", self.region, "--target", node.id, *document)


def load(name: str) -> Cluster:
    """A cluster by its name.

    Raises:
        LaunchError: It is not known, or its facts are of another version.
    """
    path = home.clusters() / f"{name}.json"
    try:
        return Cluster.model_validate_json(path.read_text())
    except FileNotFoundError:
        known = ", ".join([*names(), LOCAL])
        raise LaunchError(f"There is no cluster {name!r} here: choose from {known}, or make it by `cos up`.") from None
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the text"
        raise LaunchError(
            f"{path} is of another version of cos ({field}: {error.errors()[0]['msg']}): "
            f"`cos status --cluster {name}` writes it anew."
        ) from None


def save(cluster: Cluster) -> Path:
    """Keep a cluster's facts for the verbs to come."""
    path = home.clusters() / f"{cluster.cluster}.json"
    home.keep(path, cluster.model_dump_json(indent=2))
    return path


def names() -> list[str]:
    """The clusters that are known."""
    return sorted(path.stem for path in _files())


def _files() -> Iterator[Path]:
    return home.clusters().glob("*.json") if home.clusters().is_dir() else iter(())
