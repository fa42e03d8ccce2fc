"""A cluster that is there: its state, its deadline moved, its nodes stopped and started."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from botocore.exceptions import ClientError

from bootstrap.clusters import config, facts, readiness
from bootstrap.clusters.nodes import ALL, Node, aws_errors, find, place
from bootstrap.errors import FailedError, LaunchError
from bootstrap.teardown import DEADLINE_TAG, FRESH_SECONDS, TAG, Place, activity_key, present_bucket, read_json
from infra.instances import facts as type_facts
from infra.labels import iso

_STOP_SECONDS = 600.0
_POLL_SECONDS = 3.0
_TAGS_AT_ONCE = 500

Tell = Callable[[str], None]


class State(NamedTuple):
    """What is known of a cluster now; `nodes` may have ended ones, `readiness` is by node id."""

    name: str
    place: Place
    bucket: str | None
    nodes: list[Node]
    readiness: dict[str, readiness.Readiness]

    @property
    def deadline(self) -> datetime.datetime | None:
        """The earliest of the nodes'."""
        texts = [node.deadline for node in self.nodes if node.is_live and node.deadline]
        return min((datetime.datetime.fromisoformat(text) for text in texts), default=None)

    @property
    def live(self) -> list[Node]:
        """The nodes that are there, running or stopped."""
        return [node for node in self.nodes if node.is_live]


def region(name: str) -> str:
    """The cluster's region, by its facts or else by its configuration.

    Raises:
        LaunchError: Neither is here.
    """
    known = facts.known(name)
    return known.region if known is not None and known.region else config.region(name)


def look(name: str) -> State:
    """Ask AWS for a cluster: one question for all nodes, and one to the bucket for each.

    Raises:
        LaunchError: It is not known, or AWS refuses.
    """
    where = place(region(name))
    with aws_errors():
        nodes = find(where, name, ALL)
        known = facts.known(name)
        bucket = known.bucket if known and known.bucket else present_bucket(where, name)
        asked = [node for node in nodes if node.state == "running"]
        return State(name, where, bucket, nodes, readiness.look(where, bucket, asked) if bucket else {})


def require(name: str, wanted: Sequence[str] = ("running",)) -> State:
    """A cluster with a node in one of these states.

    Raises:
        LaunchError: It has none.
    """
    state = look(name)
    if not any(node.state in wanted for node in state.nodes):
        states = {node.state for node in state.live}
        instead = (
            f"all its nodes are {' or '.join(sorted(states))}" if states else "it has no nodes: `cos up` makes them"
        )
        raise LaunchError(f"No node of {name} is {' or '.join(wanted)}: {instead}.")
    return state


def extend(name: str, minutes: int) -> datetime.datetime:
    """Move the deadline by so many minutes from where it is, everywhere; the new one.

    By AWS itself and not by Pulumi: it must not wait for capacity, or fail for what has nothing to do with it. So it
    does not wait for an `up` either, which moves what it made meanwhile by `move`. The guards read their node's tag
    within seconds. The configuration has it too, so that the next `up` changes nothing.

    Raises:
        LaunchError: The cluster has no node.
    """
    state = require(name, ("pending", "running", "stopping", "stopped"))
    now = datetime.datetime.now(datetime.UTC)
    told = (datetime.datetime.fromisoformat(node.deadline) for node in state.live if node.deadline)
    coming = (deadline for deadline in told if deadline > now)  # one that is past is of a node which is to end
    fresh = min(coming, default=now) + datetime.timedelta(minutes=minutes)
    move(state, fresh)
    config.change(name, deadline=iso(fresh))
    return fresh


def move(state: State, deadline: datetime.datetime) -> None:
    """Set the deadline of all that is there of a cluster."""
    with aws_errors():
        # The schedules first: were they left behind, they would end nodes that believe to have time.
        _reschedule(state.place, state.name, deadline)
        _retag(state.place, state.name, state.live, iso(deadline))


def _reschedule(where: Place, name: str, deadline: datetime.datetime) -> None:
    scheduler = where.client("scheduler")
    fields = ("Name", "GroupName", "Description", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target", "State")
    for page in scheduler.get_paginator("list_schedules").paginate(NamePrefix=f"{name}-"):
        for entry in page["Schedules"]:
            tags = scheduler.list_tags_for_resource(ResourceArn=_group_arn(entry["Arn"]))["Tags"]
            if {"Key": TAG, "Value": name} not in tags:
                continue
            found = scheduler.get_schedule(Name=entry["Name"], GroupName=entry["GroupName"])
            kept = {field: found[field] for field in fields if field in found}
            scheduler.update_schedule(**kept, ScheduleExpression=f"at({deadline:%Y-%m-%dT%H:%M:%S})")


def _group_arn(schedule: str) -> str:
    """A schedule's tags are its group's."""
    prefix, _, path = schedule.partition(":schedule/")
    return f"{prefix}:schedule-group/{path.split('/')[0]}"


def _retag(where: Place, name: str, nodes: Sequence[Node], deadline: str) -> None:
    """All of EC2's that has the tag, the nodes before the rest."""
    ours = _tagged(where, TAG, [{"Name": "value", "Values": [name]}]) & _tagged(where, DEADLINE_TAG, [])
    first = [node.id for node in nodes]
    ids = [*first, *sorted(ours - set(first))]
    for begin in range(0, len(ids), _TAGS_AT_ONCE):
        _tag(where, ids[begin : begin + _TAGS_AT_ONCE], deadline)


def _tag(where: Place, ids: list[str], deadline: str) -> None:
    """Tag what is still there: EC2 lists tags of what has ended for a while, and refuses all for one that is gone."""
    while ids:
        try:
            where.ec2.create_tags(Resources=ids, Tags=[{"Key": DEADLINE_TAG, "Value": deadline}])
        except ClientError as error:
            gone = [name for name in ids if name in str(error)]
            if not gone or not error.response["Error"]["Code"].endswith(".NotFound"):
                raise
            ids = [name for name in ids if name not in gone]
        else:
            return


def _tagged(where: Place, key: str, more: list[dict[str, object]]) -> set[str]:
    pages = where.ec2.get_paginator("describe_tags").paginate(Filters=[{"Name": "key", "Values": [key]}, *more])
    return {entry["ResourceId"] for page in pages for entry in page["Tags"]}


def stop(state: State, tell: Tell) -> None:
    """Stop the nodes, whose disks stay: NVMe scratch does not.

    Raises:
        LaunchError: A node cannot be stopped.
        FailedError: They did not stop in time.
    """
    spot = [node.name for node in state.live if node.spot]
    if spot:
        raise LaunchError(f"{', '.join(spot)} are on spot, which EC2 does not stop: `cos down` ends the cluster.")
    lost = sorted({node.type for node in state.live if type_facts(node.type).nvme_gb})
    if lost:
        tell(f"what is on the NVMe scratch of {', '.join(lost)} is gone after a stop")
    running = [node.id for node in state.live if node.state in ("pending", "running")]
    with aws_errors():
        state.place.ec2.stop_instances(InstanceIds=running)
    _wait(state, running, "stopped", tell)


def start(state: State, tell: Tell, seconds: float) -> list[Node]:
    """Start the stopped nodes and wait until they have joined again.

    Raises:
        LaunchError: The deadline is past.
        FailedError: They did not start or join in time.
    """
    if state.deadline is not None and state.deadline <= datetime.datetime.now(datetime.UTC):
        raise LaunchError(
            f"The deadline of {state.name} is past, so that its nodes would end at once: `cos extend 2h`."
        )
    stopped = [node.id for node in state.live if node.state == "stopped"]
    with aws_errors():
        state.place.ec2.start_instances(InstanceIds=stopped)
        _wait(state, stopped, "running", tell)
        return readiness.wait(state.place, state.name, str(state.bucket), tell, seconds)


def _wait(state: State, ids: Sequence[str], wanted: str, tell: Tell, seconds: float = _STOP_SECONDS) -> None:
    tell(f"waiting for {len(ids)} nodes to be {wanted} (up to {seconds / 60:.0f} min)")
    deadline = time.monotonic() + seconds
    while True:
        with aws_errors():
            late = [node for node in find(state.place, state.name, ALL) if node.id in ids and node.state != wanted]
        if not late:
            return
        gone = [node for node in late if not node.is_live]
        if gone or time.monotonic() > deadline:
            what = f"has ended ({gone[0].reason})" if gone else f"is {late[0].state} after {seconds:.0f} s"
            raise FailedError(f"{(gone or late)[0].name} {what}: `cos status` tells more.")
        time.sleep(_POLL_SECONDS)


def used(state: State) -> bool | None:
    """Whether an application runs or somebody is logged in, as the master last wrote; None without a fresh word."""
    word = read_json(state.place, state.bucket, activity_key(state.name))
    if not isinstance(word, dict) or time.time() - float(word.get("at", 0)) > FRESH_SECONDS:
        return None
    return bool(word.get("busy"))
