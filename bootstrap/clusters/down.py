"""`down`: nodes save what they have and end, Pulumi destroys, and the tag proves that nothing is left."""

from collections.abc import Callable
from typing import NamedTuple

from bootstrap.cluster import Cluster
from bootstrap.clusters import config, facts
from bootstrap.clusters.engine import Engine
from bootstrap.clusters.nodes import aws_errors, find
from bootstrap.clusters.progress import Progress
from bootstrap.errors import FailedError, LaunchError
from bootstrap.teardown import (
    SAVE_SECONDS,
    Found,
    Place,
    buckets,
    closed,
    cost,
    delete_bucket,
    drop_sent,
    end_nodes,
    present_bucket,
    read_meter,
    refuse_if_busy,
    remove,
    write_meter,
)

Tell = Callable[[str], None]


class Ended(NamedTuple):
    """What became of a cluster.

    Attributes:
        cost: what it cost, in words.
        bucket: where its logs and models are kept, if anywhere.
        is_own: whether that bucket was made with the cluster, and may go as it did.
    """

    cost: str
    bucket: str | None
    is_own: bool


def refuse_running(
    where: Place, name: str, known: Cluster | None, jobs: Callable[[], list[str]], *, force: bool
) -> None:
    """Refuse where a job runs: by the master's own list, else by what it last wrote to the bucket.

    Args:
        where: The region.
        name: The cluster.
        known: Its facts, where they are here.
        jobs: Asks the master for the jobs that are not over.
        force: Do not ask.

    Raises:
        LaunchError: One runs.
    """
    with aws_errors():
        if force or not any(node.state == "running" and node.role == "master" for node in find(where, name)):
            return
        if known is not None:
            try:
                running = jobs()
            except LaunchError:  # the master cannot be asked: what it wrote last is to count
                pass
            else:
                if running:
                    raise LaunchError(
                        f"Job {', '.join(running)} runs on {name}: `cos cancel` ends it, --force goes on without."
                    )
                return
        refuse_if_busy(where, name, _bucket(where, name, known))


def end(
    name: str, where: Place, engine: Engine, progress: Progress, tell: Tell, *, save_seconds: float | None = None
) -> Ended:
    """End a cluster.

    Args:
        name: The cluster.
        where: Its region.
        engine: Its stack.
        progress: Follows Pulumi.
        tell: Told what goes on.
        save_seconds: Limit for the nodes to save what they have; None is the usual one.

    Raises:
        FailedError: Something billable is left; the same again goes on from there.
    """
    with aws_errors():
        known = facts.known(name)
        given, bucket = config.read(name).get("bucket"), _bucket(where, name, known)
        meters = read_meter(where, name, bucket)
        is_over = known is None and meters and all(meter.end for meter in meters)
        if is_over and engine.is_used and bucket != given:
            bucket, meters = None, []  # an earlier life's, which has ended: this one did not come to a bucket
        end_nodes(where, name, bucket, tell, SAVE_SECONDS if save_seconds is None else save_seconds)
        said = cost(closed(meters))
    try:
        engine.destroy(progress)
    except FailedError as error:
        tell(f"Pulumi could not end all of it ({error}): what is left is found by its tag")
    with aws_errors():
        left = remove(where, name, tell)
        if left:
            raise FailedError(told_left(name, left))
        drop_sent(where, name, bucket)
        is_own = _is_own(where, name, bucket, tell)
        kept = bucket if is_own or bucket == given else None
        if kept is not None and meters:
            write_meter(where, name, kept, closed(meters))
    facts.forget(name)
    config.change(name, deadline=None)
    return Ended(said, kept, is_own)


def drop_bucket(where: Place, bucket: str) -> None:
    """Remove the bucket that outlived its cluster, with all in it."""
    with aws_errors():
        delete_bucket(where, bucket)


def told_left(name: str, left: list[Found]) -> str:
    """What could not be removed."""
    listed = "\n".join(f"  {found.kind} {found.id} in {found.region} {found.note}" for found in left)
    return f"{len(left)} resources of {name} are still there: the same again, or AWS's console, removes them.\n{listed}"


def _bucket(where: Place, name: str, known: Cluster | None) -> str | None:
    if known is not None and known.bucket:
        return known.bucket
    return config.read(name).get("bucket") or present_bucket(where, name)


def _is_own(where: Place, name: str, bucket: str | None, tell: Tell) -> bool:
    """Whether the bucket of the life that has ended bears the tag, and is still there; those of others are told."""
    tagged = [found.id for found in buckets(where, name)]
    others = ", ".join(f"s3://{each}" for each in tagged if each != bucket)
    if others:
        why = f"of other lives of {name}" if bucket else f"as none is known to be of this life of {name}"
        sweep = f"cos sweep --cluster {name} --region {where.region} --remove --delete-bucket"
        tell(f"kept in any case, {why}: {others}; `{sweep}` removes every bucket of {name}")
    return bucket in tagged
