"""Whether nodes are ready: each writes `nodes/ID/status.json` and its boot's log to the bucket when it has booted."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from botocore.exceptions import ClientError

from bootstrap.clusters.nodes import ALL, Node, find
from bootstrap.errors import FailedError
from bootstrap.teardown import Place

SECONDS = 1800.0  # a node itself waits up to 15 minutes for the kit, and a worker as long for the master
AT_REST = ("stopping", "stopped")
_POLL_SECONDS = 3.0
_AT_ONCE = 32
_TAIL_LINES = 15


class Readiness(NamedTuple):
    """How far a node's boot is; `reasons` say why it does not join."""

    state: Literal["booting", "ready", "refused"]
    reasons: tuple[str, ...] = ()


def look(place: Place, bucket: str, nodes: Sequence[Node]) -> dict[str, Readiness]:
    """The readiness of nodes, by id. What a boot before the last start said does not count."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = threads.map(lambda node: _one(place, bucket, node), nodes)
        return {node.id: readiness for node, readiness in zip(nodes, found, strict=True)}


def _one(place: Place, bucket: str, node: Node) -> Readiness:
    try:
        answer = place.s3.get_object(Bucket=bucket, Key=f"nodes/{node.id}/status.json")
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
            return Readiness("booting")
        raise
    if answer["LastModified"] < node.launched.replace(microsecond=0):
        return Readiness("booting")
    status = json.loads(answer["Body"].read())
    return Readiness("ready" if status["state"] == "ready" else "refused", tuple(status.get("reasons", ())))


def wait(place: Place, cluster: str, bucket: str, tell: Callable[[str], None], seconds: float = SECONDS) -> list[Node]:
    """Wait until all nodes are ready.

    Args:
        place: The region.
        cluster: The cluster.
        bucket: Its bucket.
        tell: Told what is waited for, whenever that changes.
        seconds: Limit for all of it.

    Returns:
        The nodes.

    Raises:
        FailedError: A node does not join, has ended, or is not ready in time; with the end of its boot's log.
    """
    deadline, told = time.monotonic() + seconds, ""
    asked: dict[str, Node] = {}
    while True:
        nodes = find(place, cluster, ALL)
        asked |= {node.id: node for node in nodes if node.is_live}
        gone = [node for node in nodes if node.id in asked and not node.is_live]
        live = [node for node in nodes if node.is_live]
        known = look(place, bucket, live)
        at_rest = [node for node in live if node.state in AT_REST]
        if at_rest:
            raise FailedError(told_at_rest(cluster, at_rest))
        for node in live:
            if known[node.id].state == "refused":
                _fail(place, bucket, node, f"does not join: {'; '.join(known[node.id].reasons)}")
        if gone:
            _fail(place, bucket, gone[0], f"has ended while it booted ({gone[0].reason or 'EC2 says not why'})")
        waiting = [node for node in live if node.state != "running" or known[node.id].state == "booting"]
        if live and not waiting:
            return live
        names = _names(waiting)
        if names != told:
            tell(f"waiting for {len(waiting)} of {len(live)} nodes to be ready: {names} (up to {seconds / 60:.0f} min)")
            told = names
        if time.monotonic() > deadline:
            if not waiting:
                raise FailedError(f"{cluster} has no node that runs: run `cos up --cluster {cluster}`.")
            _fail(place, bucket, waiting[0], f"is not ready after {seconds:.0f} s")
        time.sleep(min(_POLL_SECONDS, seconds / 10))


def told_at_rest(cluster: str, nodes: Sequence[Node]) -> str:
    """That nodes are stopped, or about to be; their words in the bucket are old."""
    states = " or ".join(sorted({node.state for node in nodes}))
    return (
        f"{_names(nodes)} of {cluster} {'is' if len(nodes) == 1 else 'are'} {states}: "
        f"`cos start --cluster {cluster}` starts nodes that have stopped."
    )


def _names(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes[:5]) + (" and others" if len(nodes) > 5 else "")


def _fail(place: Place, bucket: str, node: Node, what: str) -> None:
    raise FailedError(
        f"{node.name} ({node.id}) {what}. `cos resize` and `cos up` go on from here, `cos down` ends the cluster.\n"
        + boot_log(place, bucket, node.id)
    )


def boot_log(place: Place, bucket: str, instance: str) -> str:
    """The end of a boot's log, from the bucket, or else from the console."""
    key = f"nodes/{instance}/boot.log"
    try:
        text = place.s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace")
        source = f"s3://{bucket}/{key}"
    except ClientError:
        text, source = console(place, instance), "its console"
    return "\n".join([f"The end of {source}:", *text.strip().splitlines()[-_TAIL_LINES:]])


def console(place: Place, instance: str) -> str:
    """What an instance has printed on its console; empty where EC2 has nothing of it."""
    for latest in ({"Latest": True}, {}):  # not every type has the latest
        try:
            return str(place.ec2.get_console_output(InstanceId=instance, **latest).get("Output", ""))
        except ClientError:
            continue
    return ""
