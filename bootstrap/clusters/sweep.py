"""`sweep`: what bears the tag and may have lost its state, told and removed by the code of `bootstrap.teardown`."""

import contextlib
from collections.abc import Callable, Sequence

import boto3

from bootstrap import teardown
from bootstrap.clusters import facts, running
from bootstrap.clusters.down import told_left
from bootstrap.clusters.nodes import aws_errors, place
from bootstrap.errors import FailedError, LaunchError
from bootstrap.teardown import Found


def regions(cluster: str | None, region: str | None, *, everywhere: bool) -> list[str]:
    """Where to look: everywhere, in the region that is named, the cluster's as it is known here, or the profile's."""
    if region is None and cluster is not None:
        with contextlib.suppress(LaunchError):  # nothing is known of it: its state is lost, or another's
            region = running.region(cluster)
    with aws_errors():
        region = region or boto3.Session().region_name
        return teardown.regions(place(region or "us-east-1").session, region, everywhere=everywhere)


def look(cluster: str | None, names: Sequence[str]) -> list[Found]:
    """All that bears the tag of a cluster, or of any, in these regions."""
    with aws_errors():
        return teardown.find_everywhere(place(names[0]).session, names, cluster)


def remove(
    cluster: str, found: Sequence[Found], tell: Callable[[str], None], *, force: bool, delete_buckets: bool
) -> None:
    """Remove what was found of a cluster, region by region; its buckets only where they are meant too.

    Raises:
        LaunchError: Somebody uses it.
        FailedError: Something is left.
    """
    left: list[Found] = []
    names = sorted({entry.region for entry in found})
    with aws_errors():
        for name in names:
            where = place(name)
            left += teardown.teardown(where, cluster, tell, force=force)
            for bucket in teardown.buckets(where, cluster):
                if delete_buckets:
                    teardown.delete_bucket(where, bucket.id)
                else:
                    tell(f"bucket {bucket.id} is kept, with logs and models: --delete-bucket removes it")
    if left:
        raise FailedError(told_left(cluster, left))
    known = facts.known(cluster)
    if known is not None and known.region in names:
        facts.forget(cluster)
