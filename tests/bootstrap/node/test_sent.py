"""What jobs were sent reaches a worker that comes later."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap import teardown
from bootstrap.node import idle, sent
from bootstrap.node.context import Context
from bootstrap.node.layout import Layout
from tests.bootstrap.node.conftest import BUCKET, keys

FILES = {"aa/solver.prototxt": b"net: 'x'", "bb/lmdb/data.mdb": b"records" * 1000, "bb/lmdb/more/x": b""}


@pytest.fixture
def master(context: Context) -> Context:
    """A master that was sent files for one job."""
    for name, content in FILES.items():
        path = context.layout.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _job(context, "1", "running", list(FILES))
    return context


@pytest.fixture
def worker(context: Context, tmp_path: Path) -> Context:
    layout = Layout(tmp_path / "worker")
    layout.state.mkdir(parents=True)
    return context._replace(layout=layout, plan=replace(context.plan, role="worker"))


@pytest.fixture
def incomplete(master: Context, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The master, whose bucket lacks one of the files that it lists; who waits for it looks often."""
    monkeypatch.setattr(sent, "_POLL_SECONDS", 0.1)
    sent.Keeper(master).look()
    key = next(key for key in keys(s3) if key.endswith("data.mdb"))
    s3.delete_object(Bucket=BUCKET, Key=key)
    return master


def _job(master: Context, number: str, state: str, files: list[str]) -> None:
    folder = master.layout.jobs / number
    folder.mkdir(parents=True, exist_ok=True)
    places = [str(master.layout.files / name) for name in files]
    (folder / "job.json").write_text(json.dumps({"id": number, "state": state, "files": places}))


def _content(context: Context) -> dict[str, bytes]:
    files = context.layout.files
    return {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}


def test_a_worker_brings_what_a_running_job_was_sent(master: Context, worker: Context) -> None:
    sent.Keeper(master).look()
    sent.fetch(worker)
    assert _content(worker) == FILES
    (worker.layout.files / "aa/solver.prototxt").write_bytes(b"what is there stays")
    sent.fetch(worker)
    assert _content(worker)["aa/solver.prototxt"] == b"what is there stays"


@pytest.mark.parametrize(("state", "needed"), [("queued", True), ("failed", True), ("succeeded", False)])
def test_what_a_job_may_still_need(master: Context, worker: Context, state: str, *, needed: bool) -> None:
    _job(master, "1", state, list(FILES))
    sent.Keeper(master).look()
    sent.fetch(worker)
    assert bool(_content(worker)) == needed


def test_a_job_that_ended_is_no_longer_listed(master: Context, worker: Context) -> None:
    keeper = sent.Keeper(master)
    keeper.look()
    _job(master, "1", "succeeded", list(FILES))
    _job(master, "2", "running", ["aa/solver.prototxt"])
    keeper.look()
    sent.fetch(worker)
    assert list(_content(worker)) == ["aa/solver.prototxt"]


def test_it_waits_for_what_is_still_on_its_way(incomplete: Context, worker: Context) -> None:
    fetching = threading.Thread(target=sent.fetch, args=(worker,))
    fetching.start()
    time.sleep(1.0)
    assert fetching.is_alive()
    assert "bb/lmdb/data.mdb" not in _content(worker)
    sent.Keeper(incomplete).look()
    fetching.join(30.0)
    assert _content(worker) == FILES


@pytest.mark.usefixtures("incomplete")
def test_what_does_not_come_is_left_out_whole(worker: Context) -> None:
    sent.fetch(worker, seconds=0.5)
    assert list(_content(worker)) == ["aa/solver.prototxt"]


def test_nothing_lands_outside_of_its_place(master: Context, worker: Context, s3: Any) -> None:
    bad = ["../cron.d/x", "/etc/x", "aa/../../x", "plain", ".aa.part/x"]
    index = f"sent/{master.plan.cluster}/index.json"
    s3.put_object(Bucket=BUCKET, Key=index, Body=json.dumps({"files": bad}).encode())
    sent.fetch(worker, seconds=0.1)
    assert not worker.layout.files.exists()


def test_teardown_knows_where_it_is(master: Context) -> None:
    """It is one file that knows none of ours."""
    assert teardown.SENT_PREFIX == sent.PREFIX
    assert teardown.activity_key(master.plan.cluster) == idle.key(master)


def test_no_job_no_wait(worker: Context) -> None:
    started = time.monotonic()
    sent.fetch(worker)
    assert time.monotonic() - started < 10.0
