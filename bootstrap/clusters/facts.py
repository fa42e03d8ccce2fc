"""The facts of a cluster for the launcher's other verbs: `clusters/NAME.json`, with each node's pinned host keys."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from bootstrap import home
from bootstrap.cluster import Cluster, NodeFacts, load, save
from bootstrap.clusters.nodes import Node
from bootstrap.clusters.readiness import console
from bootstrap.errors import FailedError, LaunchError
from bootstrap.ssh.host_keys import parse_console_output
from bootstrap.teardown import Place

KEY_SECONDS = 600.0  # EC2 brings a console's text minutes after it was written on some types
_POLL_SECONDS = 5.0
_AT_ONCE = 16
_USER = "ubuntu"


def known(name: str) -> Cluster | None:
    """The facts that are here; None where there are none, or of another version."""
    try:
        return load(name)
    except LaunchError:
        return None


def write(
    place: Place,
    cluster: str,
    bucket: str,
    nodes: Sequence[Node],
    *,
    via: Literal["public", "ssm"],
    public_key: str,
    tell: Callable[[str], None],
    seconds: float = KEY_SECONDS,
) -> Cluster:
    """Write a cluster's facts; host keys that are pinned stay, and those of new nodes are read from their consoles.

    Args:
        place: The region.
        cluster: Its name.
        bucket: Its bucket.
        nodes: Its nodes, which have booted.
        via: How the master is reached.
        public_key: The one that the nodes let in; the private key beside its file is what ssh uses.
        tell: Told what is waited for.
        seconds: Limit for the consoles.

    Raises:
        FailedError: It has no master, or a console does not show the keys in time.
    """
    masters = [node for node in nodes if node.role == "master"]
    if not masters:
        raise FailedError(f"{cluster} has no master: `cos up --cluster {cluster}` makes one.")
    before = known(cluster)
    pinned = dict(before.host_keys) if before else {}
    keys = {node.id: pinned[node.id] for node in nodes if pinned.get(node.id)}
    keys |= _from_consoles(place, [node for node in nodes if node.id not in keys], tell, seconds)
    facts = Cluster(
        cluster=cluster,
        region=place.region,
        bucket=bucket,
        ssh_user=_USER,
        ssh_via=via,
        master=_facts(masters[0]),
        workers=tuple(_facts(node) for node in nodes if node.role == "worker"),
        host_keys=keys,
        key_file=_private_key(public_key),
    )
    save(facts)
    return facts


def forget(name: str) -> None:
    """Remove a cluster's facts, as it is no more."""
    (home.clusters() / f"{name}.json").unlink(missing_ok=True)


def _facts(node: Node) -> NodeFacts:
    return NodeFacts(id=node.id, role=node.role, group=node.group, private_ip=node.private_ip, public_ip=node.public_ip)


def _from_consoles(
    place: Place, nodes: Sequence[Node], tell: Callable[[str], None], seconds: float
) -> dict[str, tuple[str, ...]]:
    """The host keys that cloud-init printed, which AWS hands over: the one way that no other machine can stand in."""
    found: dict[str, tuple[str, ...]] = {}
    deadline = time.monotonic() + seconds
    while True:
        missing = [node for node in nodes if node.id not in found]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for node, text in zip(missing, threads.map(lambda node: console(place, node.id), missing), strict=True):
                keys = parse_console_output(text)
                if keys:
                    found[node.id] = tuple(str(key) for key in keys)
        missing = [node for node in nodes if node.id not in found]
        if not missing:
            return found
        names = ", ".join(node.name for node in missing[:5])
        if time.monotonic() > deadline:
            raise FailedError(
                f"The consoles of {names} do not show their host keys after {seconds:.0f} s: the same again asks anew."
            )
        tell(f"waiting for the host keys on the consoles of {len(missing)} nodes: {names}")
        time.sleep(min(_POLL_SECONDS, seconds / 10))


def _private_key(public_key: str) -> str | None:
    """The file of the private key; None leaves it to the agent."""
    wanted = public_key.split()[:2]
    for path in sorted((Path.home() / ".ssh").glob("*.pub")):
        if path.read_text(errors="replace").split()[:2] == wanted and path.with_suffix("").is_file():
            return str(path.with_suffix(""))
    return None
