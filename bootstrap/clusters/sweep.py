"""`sweep`: what bears the tag and may have lost its state, told and removed by the code of `bootstrap.teardown`."""

from collections.abc import Callable, Sequence

import boto3

from bootstrap import teardown
from bootstrap.clusters import facts
from bootstrap.clusters.down import told_left
from bootstrap.clusters.nodes import aws_errors, place
from bootstrap.errors import FailedError
from bootstrap.teardown import Found


def look(cluster: str | None, region: str | None, *, everywhere: bool) -> list[Found]:
    """All that bears the tag of a cluster, or of any, in a region or in all."""
    with aws_errors():
        session = boto3.Session()
        home = place(region or session.region_name or "us-east-1")
        names = teardown.regions(home.session, region or session.region_name, everywhere=everywhere)
        return teardown.find_everywhere(home.session, names, cluster)


def remove(
    cluster: str, found: Sequence[Found], tell: Callable[[str], None], *, force: bool, delete_buckets: bool
) -> None:
    """Remove what was found of a cluster, region by region; its buckets only where they are meant too.

    Raises:
        LaunchError: Somebody uses it.
        FailedError: Something is left.
    """
    left: list[Found] = []
    with aws_errors():
        for name in sorted({entry.region for entry in found}):
            where = place(name)
            left += teardown.teardown(where, cluster, tell, force=force)
            for bucket in teardown.buckets(where, cluster):
                if delete_buckets:
                    teardown.delete_bucket(where, bucket.id)
                else:
                    tell(f"bucket {bucket.id} is kept, with logs and models: --delete-bucket removes it")
    if left:
        raise FailedError(told_left(cluster, left))
    facts.forget(cluster)
