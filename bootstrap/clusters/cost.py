"""What a cluster has cost: runs of nodes and of what goes with them, noted in its bucket for any laptop."""

import datetime
from collections.abc import Sequence

from botocore.exceptions import BotoCoreError, ClientError

from bootstrap.clusters.nodes import ALL, Node, find
from bootstrap.teardown import Meter, Place, closed, read_meter, write_meter
from infra.config import ClusterConfig
from infra.estimate import Estimate, estimate, live_lookup, offline_lookup


def priced(place: Place, config: ClusterConfig) -> Estimate:
    """The configuration's price, AWS's own where it says so, else by the project's list."""
    try:
        return estimate(config, live_lookup(config, place.session))
    except (BotoCoreError, ClientError):
        return estimate(config, offline_lookup(config))


def note(place: Place, config: ClusterConfig, bucket: str) -> list[Meter]:
    """Bring the noted runs up to date with what EC2 tells, and keep them in the bucket.

    Args:
        place: The region.
        config: The cluster's, for prices.
        bucket: Its bucket.

    Returns:
        All runs since the cluster was first made.
    """
    nodes = find(place, config.cluster, ALL)
    before = read_meter(place, config.cluster, bucket)
    running = {node.id: node for node in nodes if node.state in ("pending", "running")}
    ended = {meter.id: _end(meter, nodes) for meter in before if meter.id.startswith("i-") and meter.id not in running}
    meters = closed(before, ended)
    opened = {meter.id for meter in meters if meter.end is None}
    new = [node for node in running.values() if node.id not in opened]
    cost = priced(place, config)
    usd = {line.what.partition(":")[0]: line.each_usd for line in cost.lines}
    meters += [Meter(node.id, f"{node.name}: {node.type}", usd.get(node.group), _iso(node.launched)) for node in new]
    meters = _others(meters, cost, live=any(node.is_live for node in nodes))
    if meters != before:
        write_meter(place, config.cluster, bucket, meters)
    return meters


def _end(meter: Meter, nodes: Sequence[Node]) -> str:
    """When a run ended: as EC2 says, else now, which is too much rather than too little."""
    told = next((node.ended for node in nodes if node.id == meter.id and node.ended is not None), None)
    return _iso(told or datetime.datetime.now(datetime.UTC))


def _others(meters: list[Meter], cost: Estimate, *, live: bool) -> list[Meter]:
    """The runs, with volumes, addresses and gateways: a changed price an hour is another run."""
    now = _iso(datetime.datetime.now(datetime.UTC))
    started = min((meter.start for meter in meters if meter.end is None), default=now)
    for line in cost.lines:
        if ":" in line.what or not live:
            continue
        opened = next((meter for meter in meters if meter.id == line.what and meter.end is None), None)
        if opened is not None and opened.usd == line.usd:
            continue
        meters = closed(meters, {line.what: now})
        meters.append(Meter(line.what, f"{line.count} {line.what}", line.usd, now if opened else started))
    return meters


def _iso(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds")
