"""The guard against a metadata service, a bucket, Spark's pages and a `shutdown` that notes how it was called."""

import json
import math
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bootstrap.node import activity
from bootstrap.node import guard as guards
from bootstrap.node.aws import Aws
from bootstrap.node.context import Context
from bootstrap.node.guard import Guard, parse_deadline
from bootstrap.node.idle import Idleness, key
from bootstrap.node.imds import Credentials, Metadata
from tests.bootstrap.node.conftest import BUCKET, keys
from tests.bootstrap.node.stand_ins import Programs
from tests.fixtures.metadata import MetadataServer

TAG = "meta-data/tags/instance/cos:deadline"
NOWHERE = "http://127.0.0.1:9"


def in_minutes(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.ahead


def guard(context: Context, clock: Clock | None = None, **plan: Any) -> Guard:
    context = context._replace(plan=replace(context.plan, **plan))
    return Guard(context, Idleness(context, 0.0, clock or Clock()))


def cut_off(context: Context) -> Context:
    """The same node without metadata and network."""
    aws = Aws("us-east-1", lambda: Credentials("A", "S", ""), NOWHERE)
    return context._replace(aws=aws, metadata=Metadata(NOWHERE))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's Spark or ssh on this machine counts."""
    monkeypatch.setattr(activity, "applications", lambda: 0)
    monkeypatch.setattr(activity, "ssh_sessions", lambda: 0)
    monkeypatch.setattr(activity, "executors", lambda address: 0)


@pytest.fixture
def booted(context: Context) -> None:
    """The node's boot is over."""
    context.layout.state.mkdir(parents=True, exist_ok=True)
    context.layout.status.write_text('{"state": "ready"}')


def test_the_tags_deadline_is_scheduled_and_moves(context: Context, imds: MetadataServer, programs: Programs) -> None:
    watched = guard(context)
    imds.entries[TAG] = in_minutes(119.5)
    assert not watched.tick()
    assert not watched.tick()
    assert programs.calls("shutdown") == ["-P +120"]
    assert programs.calls("systemctl") == ["stop cos-ttl.timer"]
    imds.entries[TAG] = in_minutes(239.5)  # cos extend 2h
    assert not watched.tick()
    assert programs.calls("shutdown") == ["-P +120", "-P +240"]
    assert programs.calls("wall") == []


def test_the_end_saves_and_shuts_down(context: Context, imds: MetadataServer, programs: Programs, s3: Any) -> None:
    job = context.layout.jobs / "lenet-1"
    (job / "work").mkdir(parents=True)
    (job / "log").write_text("iteration 100")
    (context.layout.logs / "boot.log").write_text("ready")
    for iteration in (100, 200):
        for kind in ("solverstate", "caffemodel"):
            path = job / "work" / f"lenet_iter_{iteration}.{kind}"
            path.write_text(f"{kind} {iteration}")
            os.utime(path, (iteration, iteration))
    imds.entries[TAG] = in_minutes(-1)
    assert guard(context).tick()
    assert programs.calls("shutdown")[-1] == "-P now"
    assert "its deadline" in programs.calls("wall")[-1]
    place = "jobs/quick-otter/i-0123456789abcdef0/lenet-1"
    assert set(keys(s3)) == {
        f"{place}/log",
        f"{place}/work/lenet_iter_200.solverstate",
        f"{place}/work/lenet_iter_200.caffemodel",
        "nodes/i-0123456789abcdef0/logs/boot.log",
    }
    assert s3.get_object(Bucket=BUCKET, Key=f"{place}/log")["Body"].read() == b"iteration 100"


def test_saving_begins_before_the_deadline(context: Context, imds: MetadataServer, programs: Programs) -> None:
    imds.entries[TAG] = in_minutes(1.5)
    assert guard(context).tick()
    assert programs.calls("shutdown") == ["-P +2", "-P now"]


def test_more_time_given_while_it_saves_counts(
    context: Context, imds: MetadataServer, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a save of two minutes leaves of time to `cos extend`."""
    imds.entries[TAG] = in_minutes(1.5)

    def extended(context: Context, seconds: float) -> int:
        imds.entries[TAG] = in_minutes(59.5)
        return 0

    monkeypatch.setattr(guards, "save", extended)
    watched = guard(context)
    assert not watched.tick()
    assert not watched.tick()
    assert programs.calls("shutdown") == ["-P +2", "-P +60"]
    assert "does not shut down" in programs.calls("wall")[-1]


def test_a_full_disk_keeps_no_node_from_its_end(context: Context, imds: MetadataServer, programs: Programs) -> None:
    context.layout.deadline.with_suffix(".part").mkdir(parents=True)  # nothing can be written there
    imds.entries[TAG] = in_minutes(90.5)
    watched = guard(context)
    assert not watched.tick()
    imds.entries[TAG] = in_minutes(-1)
    assert watched.tick()
    assert programs.calls("shutdown")[-1] == "-P now"


def test_a_short_life_is_not_all_saving(context: Context, imds: MetadataServer, programs: Programs) -> None:
    imds.entries[TAG] = in_minutes(1.5)
    assert not guard(context, ttl_minutes=2).tick()


def test_without_metadata_the_last_known_deadline_counts(
    context: Context, imds: MetadataServer, programs: Programs
) -> None:
    imds.entries[TAG] = in_minutes(90.5)
    guard(context).tick()
    assert not guard(cut_off(context)).tick()
    assert programs.calls("shutdown") == ["-P +91", "-P +91"]
    context.layout.deadline.write_text(str(time.time() - 1))
    assert guard(cut_off(context)).tick()  # nothing can be saved, and it ends all the same
    assert programs.calls("shutdown")[-1] == "-P now"


def test_with_nothing_known_the_ttl_counts_from_boot(context: Context, programs: Programs) -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    ttl_minutes = math.ceil(uptime / 60) + 60
    watched = guard(cut_off(context), ttl_minutes=ttl_minutes)
    assert abs(watched.deadline() - (time.time() - uptime + ttl_minutes * 60)) < 30
    assert watched.deadline() == watched.deadline()


def test_the_metadata_services_clock_counts(context: Context, imds: MetadataServer, programs: Programs) -> None:
    imds.entries[TAG] = in_minutes(30)
    imds.ahead = 3600.0  # this node's clock is an hour slow
    assert guard(context).tick()


def test_a_tag_that_is_no_time_changes_nothing(context: Context, imds: MetadataServer, programs: Programs) -> None:
    imds.entries[TAG] = in_minutes(90.5)
    watched = guard(context)
    watched.tick()
    imds.entries[TAG] = "tomorrow"
    assert not watched.tick()
    assert programs.calls("shutdown") == ["-P +91"]


def test_a_shutdown_that_fails_is_asked_for_again(context: Context, imds: MetadataServer, programs: Programs) -> None:
    programs.add("shutdown", "exit 1")
    imds.entries[TAG] = in_minutes(-1)
    watched = guard(context)
    assert not watched.tick()
    programs.add("shutdown")
    assert watched.tick()


def test_who_is_logged_in_is_warned_once_a_threshold(
    context: Context, imds: MetadataServer, programs: Programs
) -> None:
    watched = guard(context)
    for minutes in (40, 31, 31, 12, 11, 33, 31):  # the last ones after an extension; saving takes 2 of them
        imds.entries[TAG] = in_minutes(minutes)
        watched.tick()
    assert [call.split(" in ")[1].split(" min")[0] for call in programs.calls("wall")] == ["29", "10", "29"]


@pytest.mark.usefixtures("booted")
def test_an_idle_cluster_ends(
    context: Context, imds: MetadataServer, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    imds.entries[TAG] = in_minutes(600)
    clock = Clock()
    watched = guard(context, clock, idle_minutes=30)
    clock.ahead = 29 * 60
    assert not watched.tick()
    monkeypatch.setattr(activity, "ssh_sessions", lambda: 1)
    assert not watched.tick()
    monkeypatch.setattr(activity, "ssh_sessions", lambda: 0)
    clock.ahead = 58 * 60
    assert not watched.tick()
    clock.ahead = 59 * 60 + 1
    assert watched.tick()
    assert "nobody using the cluster" in programs.calls("wall")[-1]
    assert programs.calls("shutdown")[-1] == "-P now"


def test_idleness_counts_from_the_end_of_the_boot(
    context: Context, imds: MetadataServer, programs: Programs, request: pytest.FixtureRequest
) -> None:
    imds.entries[TAG] = in_minutes(600)
    clock = Clock()
    watched = guard(context, clock, idle_minutes=5)
    clock.ahead = 14 * 60
    assert not watched.tick()
    request.getfixturevalue("booted")
    clock.ahead = 18 * 60
    assert not watched.tick()
    assert programs.calls("wall")[-1] == "COS: this node shuts down in 1 min because of nobody using the cluster."
    clock.ahead = 19 * 60
    assert watched.tick()


def test_a_boot_that_never_says_how_it_went_keeps_no_node(
    context: Context, imds: MetadataServer, programs: Programs
) -> None:
    imds.entries[TAG] = in_minutes(600)
    clock = Clock()
    watched = guard(context, clock, idle_minutes=5)
    clock.ahead = 59 * 60
    assert not watched.tick()
    clock.ahead = 64 * 60
    assert watched.tick()
    assert programs.calls("shutdown")[-1] == "-P now"


def test_an_application_keeps_it(context: Context, imds: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    imds.entries[TAG] = in_minutes(600)
    clock = Clock()
    monkeypatch.setattr(activity, "applications", lambda: 1)
    watched = Idleness(context._replace(plan=replace(context.plan, idle_minutes=1)), 0.0, clock)
    clock.ahead = 3600
    assert watched.seconds_left() == 60


def test_zero_minutes_are_for_ever(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    watched = Idleness(context, 0.0, clock)
    clock.ahead = 1e9
    assert watched.seconds_left() == math.inf


def worker(context: Context) -> Context:
    plan = replace(context.plan, role="worker", master_host="10.0.0.1", idle_minutes=1)
    return context._replace(plan=plan)


@pytest.mark.usefixtures("booted")
def test_a_worker_hears_the_master(context: Context, monkeypatch: pytest.MonkeyPatch, s3: Any) -> None:
    clock = Clock()
    master = Idleness(context._replace(plan=replace(context.plan, idle_minutes=1)), 0.0, clock)
    hearing = Idleness(worker(context), 0.0, clock)
    monkeypatch.setattr(activity, "applications", lambda: 1)
    master.seconds_left()
    clock.ahead = 100
    assert hearing.seconds_left() > 0
    monkeypatch.setattr(activity, "applications", lambda: 0)
    master.seconds_left()
    clock.ahead = 200
    assert hearing.seconds_left() < 0


@pytest.mark.usefixtures("booted")
@pytest.mark.parametrize("word", ['{"busy": true, "at": 1000}', "{", '{"busy": true}', "[]", None])
def test_a_master_that_is_gone_keeps_no_worker(
    context: Context, monkeypatch: pytest.MonkeyPatch, s3: Any, word: str | None
) -> None:
    if word is not None:
        s3.put_object(Bucket=BUCKET, Key=key(context), Body=word.encode())
    clock = Clock()
    hearing = Idleness(worker(context), 0.0, clock)
    clock.ahead = 100
    assert hearing.seconds_left() < 0


def test_a_workers_own_executors_keep_it(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    hearing = Idleness(worker(context), 0.0, clock)
    monkeypatch.setattr(activity, "executors", lambda address: 2 if address == "127.0.0.1" else 0)
    clock.ahead = 100
    assert hearing.seconds_left() > 0


@pytest.mark.parametrize("text", ["2026-11-26T18:00:00", "soon", ""])
def test_a_deadline_needs_its_zone(text: str) -> None:
    assert parse_deadline("2026-11-26T18:00:00Z") == datetime(2026, 11, 26, 18, tzinfo=UTC).timestamp()
    with pytest.raises(ValueError, match=text or "Invalid"):
        parse_deadline(text)


def test_the_master_writes_its_word(context: Context, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "ssh_sessions", lambda: 1)
    Idleness(context._replace(plan=replace(context.plan, idle_minutes=1))).seconds_left()
    word = json.loads(s3.get_object(Bucket=BUCKET, Key=key(context))["Body"].read())
    assert word["busy"] is True
    assert abs(word["at"] - time.time()) < 60
