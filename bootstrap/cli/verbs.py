"""What all verbs share: their common options, and the hosts they speak to."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootstrap import home
from bootstrap.cli.terminal import terminal

if TYPE_CHECKING:
    from bootstrap.cluster import Cluster
    from bootstrap.host import Host
    from bootstrap.jobs.client import Jobs
    from bootstrap.jobs.record import JobRecord
    from bootstrap.ssh.address import Address

LOCAL = "local"


def _cluster_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from bootstrap.cluster import names  # noqa: PLC0415

    return [name for name in [LOCAL, *names()] if name.startswith(incomplete)]


def _job_numbers(incomplete: str) -> list[str]:
    """For the shell's completion: of this machine, as another one would let the person wait."""
    folder = home.local_jobs()
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((name for name in found if name.startswith(incomplete)), key=len)


ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        envvar="COS_CLUSTER",
        help="The cluster's name; `local` is this machine.",
        autocompletion=_cluster_names,
    ),
]
JobName = Annotated[
    str | None,
    typer.Argument(
        metavar="[JOB]", help="The job's number or name; the last one by default.", autocompletion=_job_numbers
    ),
]

_COMMON: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Results as JSON.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors alone.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")],
}


def verb(app: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a verb that has `--json`, `--quiet` and `--debug` besides its own options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> None:
            for option in _COMMON:
                setattr(terminal, option, given.pop(option) or getattr(terminal, option))
            function(*args, **given)

        signature = inspect.signature(function, eval_str=True)
        common = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for option, annotation in _COMMON.items()
        ]
        parameters = [*signature.parameters.values(), *common]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, **settings)(call)
        return call

    return register


_asking = threading.Lock()


@dataclass(frozen=True)
class Site:
    """Where a verb does its work.

    Attributes:
        name: the cluster's.
        host: this machine, or the cluster's master.
        jobs: the jobs that live there.
        cluster: the cluster's facts; None for this machine.
    """

    name: str
    host: "Host"
    jobs: "Jobs"
    cluster: "Cluster | None" = None


@contextmanager
def site(name: str, patience: float | None = None) -> Iterator[Site]:
    """The site of a cluster; its connection, made when first needed, ends with the block.

    Args:
        name: The cluster.
        patience: Seconds for which a master that cannot be reached is asked again; None is the usual.

    Raises:
        LaunchError: There is no such cluster.
    """
    from bootstrap.jobs.client import Jobs  # noqa: PLC0415

    if name == LOCAL:
        from bootstrap.local_host import LocalHost  # noqa: PLC0415

        here = LocalHost()
        yield Site(name, here, Jobs(here, str(home.local_jobs())))
        return
    from bootstrap.cluster import load  # noqa: PLC0415

    cluster = load(name)
    with ExitStack() as stack:
        host = stack.enter_context(ssh_host(cluster.addresses()[0], cluster))
        prefix = ("sudo", "-n") if cluster.sudo else ()
        limits = {} if patience is None else {"patience": patience}
        jobs = Jobs(host, f"{cluster.root}/jobs", prefix=prefix, user=cluster.job_user, **limits)
        yield Site(name, host, jobs, cluster)


@contextmanager
def ssh_host(address: "Address", cluster: "Cluster") -> Iterator["Host"]:
    """A node as a host, until the block ends."""
    from bootstrap.ssh.connection import Connection  # noqa: PLC0415
    from bootstrap.ssh.host import SshHost  # noqa: PLC0415

    with Connection(address, _ask_passphrase) as connection:
        yield SshHost(connection, [cluster.python])


def _ask_passphrase(key: Path) -> str | None:
    """Ask the person, once for all nodes, which are logged in to at the same time."""
    with _asking:
        return _passphrase(key)


@functools.cache
def _passphrase(key: Path) -> str | None:
    """The person's answer; None where there is no person."""
    if not terminal.console(stderr=True).is_terminal:
        return None
    return str(typer.prompt(f"Passphrase of {key}", hide_input=True, err=True))


def plain(record: "JobRecord") -> dict[str, Any]:
    """A job for programs."""
    return record.model_dump(mode="json", exclude={"token"})
