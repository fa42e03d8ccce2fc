"""`up` and `resize`: from a configuration to nodes that are ready, and facts for the other verbs."""

import datetime
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bootstrap import kit
from bootstrap.cluster import Cluster
from bootstrap.clusters import config as configs
from bootstrap.clusters import cost, facts, readiness, running
from bootstrap.clusters.engine import Engine, EngineError, Preview
from bootstrap.clusters.nodes import Node, aws_errors, find, place
from bootstrap.clusters.progress import Progress
from bootstrap.errors import FailedError, LaunchError
from bootstrap.teardown import Place, end_nodes
from bootstrap.teardown import find as find_tagged
from infra import capacity, preflight
from infra.config import SSM, ClusterConfig
from infra.labels import iso
from infra.preflight import Finding, offerings

Tell = Callable[[str], None]


class Prepared(NamedTuple):
    """A cluster that may be made.

    Attributes:
        config: All of its configuration.
        place: Its region.
        engine: Its stack.
        own_kit: The kit's folder, where `up` has to build it first.
        is_used: Whether there is something of it already.
        changes: Of a cluster that is there: what `up` would do, by operation; unknown before the kit is built.
        ending: The names of nodes that `up` replaces or removes; all, before the kit is built.
    """

    config: ClusterConfig
    place: Place
    engine: Engine
    own_kit: Path | None
    is_used: bool
    changes: Mapping[str, int]
    ending: tuple[str, ...]


def prepare(name: str, *, new_kit: bool = False) -> Prepared:
    """Pin what is missing, and find the cluster's stack.

    Args:
        name: The cluster.
        new_kit: Build the kit anew for a cluster that is there; its nodes are replaced if it differs.

    Raises:
        LaunchError: The configuration cannot be right, a tool is missing, the name is another's, or nodes are stopped.
    """
    where = place(configs.region(name))
    with aws_errors():
        values = configs.read(name)
        own = configs.folder(name) / "kit"
        is_own = "kit" not in values and values.get("kit_dir", str(own)) == str(own)
        config = configs.pinned(name, where.session, own if is_own else None)
        engine = Engine(name)
        is_used = engine.is_used
        if not is_used:
            _refuse_a_stranger(where, config)
        nodes = find(where, name) if is_used else []
        at_rest = [node for node in nodes if node.state in readiness.AT_REST]
        if at_rest:
            raise LaunchError(readiness.told_at_rest(name, at_rest))
        needs_kit = is_own and (new_kit or not is_used or not (own / "manifest.json").is_file())
        seen = engine.preview() if is_used and not needs_kit else Preview({}, tuple(node.name for node in nodes))
        ending = tuple(node.name for node in nodes if node.name in seen.ending)
    return Prepared(config, where, engine, own if needs_kit else None, is_used, seen.changes, ending)


def _refuse_a_stranger(where: Place, config: ClusterConfig) -> None:
    """A cluster of this name of which this laptop knows nothing is somebody else's, or a lost one."""
    found = find_tagged(where, config.cluster)
    if found:
        raise LaunchError(
            f"The name {config.cluster} is taken in {config.region}: {len(found)} resources bear it, of "
            f"{found[0].owner or 'an unknown owner'}. Choose another, or look at that one by "
            f"`cos sweep --cluster {config.cluster} --region {config.region}`, which ends it with --remove."
        )


def check(prepared: Prepared) -> Iterator[Finding]:
    """What AWS would refuse, and the price."""
    with aws_errors():
        yield from preflight.run(prepared.place.session, prepared.config)


def build_kit(prepared: Prepared) -> None:
    """Make the nodes' kit where it is `up` that makes it; the first takes minutes."""
    if prepared.own_kit is not None:
        java = kit.fetch_java(prepared.own_kit.parent)
        kit.build(prepared.own_kit, java=java)


def make(prepared: Prepared, progress: Progress, tell: Tell) -> str:
    """Have Pulumi make the cluster or change it; the bucket's name.

    Raises:
        FailedError: A resource could not be had; a want of capacity names the next zone and type.
    """
    with aws_errors():
        prepared.engine.settle(prepared.place, tell)
        _end_gently(prepared, tell)
    try:
        outputs: Mapping[str, Any] = prepared.engine.up(progress, refresh=prepared.engine.is_used)
    except EngineError as error:
        raise FailedError(_advised(str(error), prepared, progress)) from None
    finally:
        _keep_extension(prepared)
    bucket = str(outputs["bucket"])
    with aws_errors():
        cost.note(prepared.place, prepared.config, bucket)
    return bucket


def _end_gently(prepared: Prepared, tell: Tell) -> None:
    """Have nodes that Pulumi is to replace or remove save logs and models and end before, as for `down`.

    Raises:
        LaunchError: Somebody else's Pulumi is at the cluster.
    """
    ending = prepared.ending
    if ending and prepared.own_kit is not None:  # which is built now, and may be the same as before
        ending = prepared.engine.preview().ending
    if not ending:
        return
    prepared.engine.require_free()
    state = running.look(prepared.config.cluster)
    meant = [node.id for node in state.live if node.name in ending]
    end_nodes(prepared.place, state.name, state.bucket, tell, only=meant)


def _keep_extension(prepared: Prepared) -> None:
    """Where `extend` moved the deadline meanwhile, move what Pulumi made with the one before."""
    name = prepared.config.cluster
    fresh = configs.read(name).get("deadline")
    if fresh is not None and str(fresh) != iso(prepared.config.deadline):
        running.move(running.look(name), datetime.datetime.fromisoformat(str(fresh)))


def _advised(said: str, prepared: Prepared, progress: Progress) -> str:
    """The error, with where else there may be capacity."""
    name = prepared.config.cluster
    again = f"`cos up --cluster {name}` goes on from here, `cos down --cluster {name}` ends what is there."
    if not capacity.is_capacity_error(said):
        return f"{said}\n{again}"
    types = {group.name: group.type for group in prepared.config.workers} | {"master": prepared.config.master.type}
    failed = [part.removeprefix(f"{name}-").rsplit("-", 1)[0] for part in progress.failed]
    wanted = next((types[part] for part in failed if part in types), prepared.config.workers[0].type)
    with aws_errors():
        zones = offerings(prepared.place.ec2)
    return f"{capacity.advice(wanted, prepared.config.zone, zones)}\n{said}\n{again}"


def join(prepared: Prepared, bucket: str, tell: Tell, seconds: float) -> Cluster:
    """Wait until the nodes are ready, and write the facts.

    Raises:
        FailedError: A node does not join, or not in time.
    """
    with aws_errors():
        nodes = readiness.wait(prepared.place, prepared.config.cluster, bucket, tell, seconds)
        return write_facts(prepared.place, prepared.config, bucket, nodes, tell)


def write_facts(where: Place, config: ClusterConfig, bucket: str, nodes: list[Node], tell: Tell) -> Cluster:
    """The facts of a cluster, from its configuration and its nodes."""
    via: Literal["public", "ssm"] = "ssm" if config.ssh_from == SSM else "public"
    return facts.write(where, config.cluster, bucket, nodes, via=via, public_key=config.ssh_public_key, tell=tell)
