"""`cos ssh`, `run`, `push` and `pull`: the machines themselves."""

import os
import posixpath
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootstrap.cli.terminal import terminal
from bootstrap.cli.train import PASS_THROUGH
from bootstrap.cli.verbs import LOCAL, ClusterName, Site, site, ssh_host, verb
from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from bootstrap.host import Finished
    from bootstrap.ssh.address import Address
    from bootstrap.transfer import Copied
    from bootstrap.uploads import Uploads

_RUN_SECONDS = 3600.0

Nodes = Annotated[
    str, typer.Option("--nodes", "-n", help="`master`, `workers`, `all`, or one as worker-0.", show_default=True)
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "ssh", context_settings=PASS_THROUGH)(_ssh)
    verb(app, "run", context_settings=PASS_THROUGH)(_run)
    verb(app, "push")(_push)
    verb(app, "pull")(_pull)


def choose(nodes: Sequence["Address"], called: str) -> list["Address"]:
    """The nodes that are meant.

    Raises:
        LaunchError: There is no such node.
    """
    groups = {"master": nodes[:1], "workers": nodes[1:], "all": nodes, **{node.name: [node] for node in nodes}}
    if not groups.get(called):
        raise LaunchError(
            f"There is no node {called!r}: choose from {', '.join(name for name in groups if groups[name])}."
        )
    return [*groups[called]]


def upload(there: Site, uploads: "Uploads") -> None:
    """Send a job's files to every node of a cluster: each reads what is local from its own disk."""
    from bootstrap.jobs.client import Jobs  # noqa: PLC0415
    from bootstrap.local_host import LocalFiles  # noqa: PLC0415
    from bootstrap.ssh.parallel import on_all  # noqa: PLC0415
    from bootstrap.transfer import copy  # noqa: PLC0415

    cluster = there.cluster
    if cluster is None or not uploads.files:
        return
    nodes = cluster.addresses()
    _log_in(there)
    with terminal.progress("uploading", uploads.size() * len(nodes)) as told:

        def send(node: "Address") -> "Copied":
            with ssh_host(node, cluster) as host:
                Jobs(host, there.jobs.root, prefix=("sudo", "-n") if cluster.sudo else ()).room()
                return copy(LocalFiles(), host.files, uploads.files, told=told)

        results = [result for _, result in on_all(nodes, send)]
    for result in results:
        if isinstance(result, LaunchError):
            raise result
    sent = sum(result.files for result in results if not isinstance(result, LaunchError))
    terminal.note(f"{len(uploads.files)} files on {len(nodes)} nodes, {sent} of them sent now.")


def _log_in(there: Site) -> None:
    """Log in to the master, while a passphrase that is asked for is not drawn over by a bar."""
    from bootstrap.transfer import again  # noqa: PLC0415

    if terminal.is_live:
        again()(there.host.run, ["true"])


def _ssh(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="`master` or as worker-0; a command may follow.")] = "master",
    *,
    cluster: ClusterName = LOCAL,
) -> None:
    """Open a shell on a node, or run a command there with this terminal."""
    with site(cluster) as there:
        if there.cluster is None:
            raise LaunchError("The local cluster is this machine: you are there. For another one give --cluster NAME.")
        (address, *_) = choose(there.cluster.addresses(), node)
        command = ssh_command(address, context.args)
    if shutil.which("ssh") is None:
        raise LaunchError("There is no `ssh` on PATH, which a shell on a node needs: install OpenSSH's client.")
    sys.stdout.flush()
    os.execvp("ssh", command)  # noqa: S606 - in our place: the terminal and its size are its own


def ssh_command(address: "Address", command: Sequence[str]) -> list[str]:
    """OpenSSH's command line for a node, which trusts the pinned host keys and no others."""
    options = [*_ssh_options(address), "-t"] if not command else _ssh_options(address)
    if address.jump is not None:
        jump = ["ssh", *_ssh_options(address.jump), "-W", "%h:%p", f"{address.jump.user}@{address.jump.host}"]
        options += ["-o", f"ProxyCommand={_quoted(jump)}"]
    elif address.proxy:
        options += ["-o", f"ProxyCommand={_quoted(address.proxy)}"]
    return ["ssh", *options, f"{address.user}@{address.host}", *command]


def _ssh_options(address: "Address") -> list[str]:
    from bootstrap import home  # noqa: PLC0415
    from bootstrap.ssh.host_keys import known_hosts  # noqa: PLC0415

    path = home.home() / "known_hosts" / f"{address.host}-{address.port}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(known_hosts(address.host, address.port, address.host_keys))
    limits = address.limits
    # Clusters share their private addresses: what the person's own configuration says of one, a ControlPath say, may
    # lead to a node of another, past the pinned keys.
    options = ["-F", "none", "-p", str(address.port), "-o", "StrictHostKeyChecking=yes"]
    options += ["-o", f"UserKnownHostsFile={path}", "-o", "GlobalKnownHostsFile=/dev/null"]
    options += ["-o", f"ConnectTimeout={limits.connect:.0f}", "-o", f"ServerAliveInterval={limits.keep_alive:.0f}"]
    return [*options, "-i", str(address.key_file), "-o", "IdentitiesOnly=yes"] if address.key_file else options


def _quoted(command: Sequence[str]) -> str:
    import shlex  # noqa: PLC0415

    # %h and %p are OpenSSH's own.
    return " ".join(word if word == "%h:%p" else shlex.quote(word) for word in command)


def _run(
    context: typer.Context,
    *,
    cluster: ClusterName = LOCAL,
    nodes: Nodes = "all",
    limit: Annotated[int, typer.Option(min=1, help="Nodes at a time.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, help="Limit for the command.")] = _RUN_SECONDS,
) -> None:
    """Run a command on the nodes, all at once; it stands after `--`."""
    from bootstrap.ssh.parallel import on_all  # noqa: PLC0415

    command = context.args[1:] if context.args[:1] == ["--"] else context.args
    if not command:
        raise LaunchError("There is no command to run: give it after --, as in `cos run -- uptime`.")
    with site(cluster) as there:
        if there.cluster is None:
            ended: dict[str, Finished | LaunchError] = {there.host.name: there.host.run(command, seconds=seconds)}
        else:
            known = there.cluster

            def run(node: "Address") -> "Finished":
                with ssh_host(node, known) as host:
                    return host.run(command, seconds=seconds)

            chosen = choose(known.addresses(), nodes)
            ended = {node.name: result for node, result in on_all(chosen, run, limit)}
    _tell_ended(ended)


def _tell_ended(ended: "dict[str, Finished | LaunchError]") -> None:
    """Print what each node said, by its name, and exit with the worst code."""
    from bootstrap.cli import LOST  # noqa: PLC0415

    codes = [LOST if isinstance(result, LaunchError) else result.code for result in ended.values()]
    if terminal.json:
        terminal.data([_ended(name, result) for name, result in sorted(ended.items())])
    for name, result in sorted(ended.items()):
        if terminal.json:
            continue
        if isinstance(result, LaunchError):
            terminal.error(str(result))
            continue
        label = f"{name}: " if len(ended) > 1 else ""
        for line in (result.output + result.errors).decode(errors="replace").splitlines():
            terminal.say(f"{label}{line}")
        if result.code:
            terminal.note(f"{name}: exit code {result.code}")
    if any(codes):
        raise typer.Exit(max(codes))


def _ended(name: str, result: "Finished | LaunchError") -> dict[str, object]:
    if isinstance(result, LaunchError):
        return {"node": name, "error": str(result)}
    output, errors = result.output.decode(errors="replace"), result.errors.decode(errors="replace")
    return {"node": name, "exit_code": result.code, "stdout": output, "stderr": errors}


def _push(
    source: Annotated[Path, typer.Argument(help="A file or folder here.")],
    target: Annotated[str, typer.Argument(help="Its place on the nodes, an absolute path.")],
    *,
    cluster: ClusterName = LOCAL,
    nodes: Nodes = "master",
) -> None:
    """Copy files to the nodes; what is there already is left out, what broke off is gone on with."""
    from bootstrap.local_host import LocalFiles  # noqa: PLC0415
    from bootstrap.ssh.parallel import on_all  # noqa: PLC0415
    from bootstrap.transfer import copy  # noqa: PLC0415

    if not source.exists():
        raise LaunchError(f"{source} is not there: check the path.")
    sizes = LocalFiles().tree(str(source))
    paths = {
        str(source / name) if name else str(source): posixpath.join(target, name) if name else target for name in sizes
    }
    with site(cluster) as there:
        if there.cluster is None:
            copied: list[Copied | LaunchError] = [copy(LocalFiles(), there.host.files, paths)]
        else:
            known, chosen = there.cluster, choose(there.cluster.addresses(), nodes)
            _log_in(there)
            with terminal.progress(f"pushing {source.name}", sum(sizes.values()) * len(chosen)) as told:

                def push(node: "Address") -> "Copied":
                    with ssh_host(node, known) as host:
                        return copy(LocalFiles(), host.files, paths, told=told)

                copied = [result for _, result in on_all(chosen, push)]
    _tell_copied(copied)


def _pull(
    source: Annotated[str, typer.Argument(help="A file or folder on the node, an absolute path.")],
    target: Annotated[Path, typer.Argument(help="Its place here.")],
    *,
    cluster: ClusterName = LOCAL,
    node: Annotated[str, typer.Option("--node", "-n", help="`master`, or as worker-0.")] = "master",
) -> None:
    """Copy files from a node; what is here already is left out, what broke off is gone on with."""
    with site(cluster) as there:
        if there.cluster is None:
            _tell_copied([_pull_from(there.host.files, there.host.name, source, target)])
            return
        (address, *_) = choose(there.cluster.addresses(), node)
        with ssh_host(address, there.cluster) as host:
            _tell_copied([_pull_from(host.files, host.name, source, target)])


def _pull_from(files: "Files", name: str, source: str, target: Path) -> "Copied":
    from bootstrap.local_host import LocalFiles  # noqa: PLC0415
    from bootstrap.transfer import again, copy  # noqa: PLC0415

    try:
        tree = again()(files.tree, source)
    except FileNotFoundError:
        raise LaunchError(f"{source} is not there on {name}: check the path.") from None
    paths = {
        posixpath.join(source, name) if name else source: str(target / name) if name else str(target) for name in tree
    }
    with terminal.progress(f"pulling {posixpath.basename(source)}", sum(tree.values())) as told:
        return copy(files, LocalFiles(), paths, told=told)


def _tell_copied(results: "Sequence[Copied | LaunchError]") -> None:
    copied = [result for result in results if not isinstance(result, LaunchError)]
    files, skipped = sum(result.files for result in copied), sum(result.skipped for result in copied)
    size = sum(result.bytes for result in copied)
    if terminal.json:
        terminal.data({"files": files, "skipped": skipped, "bytes": size})
    else:
        terminal.note(f"copied: {files} ({size / 1e6:,.1f} MB), there already: {skipped}")
    for result in results:
        if isinstance(result, LaunchError):
            raise result


if TYPE_CHECKING:
    from bootstrap.host import Files
