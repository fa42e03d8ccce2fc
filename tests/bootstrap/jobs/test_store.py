import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from bootstrap.jobs import agent, runner
from bootstrap.jobs.record import JobRecord, JobSpec, LocalTarget, now
from bootstrap.jobs.runner import Runner
from bootstrap.jobs.start import systemd_command
from bootstrap.jobs.store import JobStore


def spec(asked: str = "a", **changes: object) -> JobSpec:
    given = {"name": "lenet", "kind": "train", "args": ("-train", "-conf", "x"), "target": LocalTarget(), **changes}
    return JobSpec.model_validate({"token": asked, **given})


def test_a_spec_becomes_one_record(tmp_path: Path) -> None:
    store = JobStore(tmp_path / 'with "quotes"')
    record, is_new = store.create(spec(args=("-model", "{work}/m"), metrics="{work}/metrics.jsonl"))
    work = tmp_path / 'with "quotes"' / "1" / "work"
    assert is_new
    assert (record.args, record.metrics) == (("-model", f"{work}/m"), f"{work}/metrics.jsonl")
    assert (record.folder, work.is_dir()) == (str(work), True)
    assert store.create(spec()) == (record, False)
    assert store.create(spec("b"))[0].id == "2"
    assert [job.id for job in store.all()] == ["1", "2"]


def test_turns(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    records = [store.create(spec(token))[0] for token in "abc"]
    assert [store.before(record.id) for record in records] == [None, "1", "2"]
    store.write(records[1].model_copy(update={"state": "succeeded"}))
    assert store.before("3") == "1"


def test_a_job_cancelled_before_its_runner_is_there_does_not_run(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    record, _ = store.create(spec())
    runner = Runner(store, record.id)
    cancelled = record.model_copy(update={"state": "cancelled", "ended": record.submitted, "exit_code": 130})
    store.write(cancelled)
    assert runner.run() == 130
    assert store.read(record.id) == cancelled


def test_a_number_without_a_record_holds_up_nobody(tmp_path: Path) -> None:
    """Of a submission that found a full disk."""
    store = JobStore(tmp_path)
    (tmp_path / "1").mkdir()
    record, _ = store.create(spec())
    assert (record.id, store.before(record.id)) == ("2", None)


def test_a_runner_that_is_gone(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    record = store.create(spec())[0]
    assert store.read("1").state == "queued", "its runner may be on its way"
    store.write(record.model_copy(update={"submitted": now() - timedelta(hours=1)}))
    assert store.read("1").state == "failed"
    store.hold("1")
    assert (store.read("1").state, store.pid("1")) == ("queued", os.getpid())


def test_a_record_of_a_newer_launcher_can_be_read(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    record = store.create(spec())[0]
    newer = {**record.model_dump(mode="json"), "mood": "good"}
    (tmp_path / "1" / "job.json").write_text(json.dumps(newer))
    assert store.read("1") == record


@pytest.mark.parametrize("flags", [(), ("-snapshot", "old.solverstate", "-weights", "old.caffemodel")])
def test_a_retry_goes_on_from_the_last_snapshot_that_is_there(tmp_path: Path, flags: tuple[str, ...]) -> None:
    metrics = tmp_path / "metrics.jsonl"
    record = JobRecord(**dict(spec(args=("-train", *flags), metrics=str(metrics))), id="1", submitted=now())
    assert agent.resumed(record) == ("-train", *flags)
    events = []
    for iteration in (100, 200, 300):
        path, state = (str(tmp_path / f"lenet_iter_{iteration}.{kind}") for kind in ("caffemodel", "solverstate"))
        events.append({"event": "snapshot", "iteration": iteration, "path": path, "state": state})
        if iteration < 300:
            Path(path).touch()
            Path(state).touch()
    lines = [json.dumps(event) for event in [*events, {"event": "snapshot", "path": "model", "state": None}]]
    metrics.write_text("\n".join([*lines, '{"event": "tra']))
    state, weights = events[1]["state"], events[1]["path"]
    assert agent.resumed(record) == ("-train", "-snapshot", state, "-weights", weights)


def test_why_a_job_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: the first\nerror: layer 3 has no data\n26/11/26 ERROR something\n")
    assert runner.why(log, 2) == "layer 3 has no data"
    log.write_text("Traceback\n")
    assert runner.why(log, 1) == "it ended with exit code 1: its log tells more"


def test_under_systemd() -> None:
    command = systemd_command(["python", "-m", "x"], "cos-job-3", "spark", "/opt/cos")
    assert command[:2] == ["systemd-run", "--unit=cos-job-3"]
    assert "--uid=spark" in command
    assert command[-4:] == ["--", "python", "-m", "x"]
