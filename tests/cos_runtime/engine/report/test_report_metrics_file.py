import json
import math
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cos_runtime import storage
from cos_runtime.engine.report.events import (
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.lines import open_lines
from cos_runtime.engine.report.metrics_file import MetricsFile
from cos_runtime.errors import UserError

STARTED = JobStarted("train", 2, "gloo", "cpu", 64, max_iter=1000, net="LeNet", model_path="/m/lenet.caffemodel")
STEP = TrainStep(100, 0.25, 0.01, {"loss": [0.25], "per_class": [0.5, 0.75]}, 1234.5, 0.8, {"loss": 1.0})


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def objects(path: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=refuse_constant) for line in storage.read_bytes(path).splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "models" / "metrics.jsonl")


def test_one_object_an_event(path: str) -> None:
    metrics = MetricsFile(open_lines(path))
    events = [
        STARTED,
        STEP,
        Progress(150, 1000.0),
        TestPass(200, 1, {"accuracy": [0.97]}),
        SnapshotSaved(200, "/m/a.caffemodel", "/m/a.solverstate"),
        JobFinished(1000, 60.5, 128000),
        JobFailed("rank 1 died"),
        RecordsSkipped(1, 2, 640, "record 7 of x has no label"),
    ]
    for event in events:
        metrics.emit(event)
    metrics.close()
    found = objects(path)
    times = [datetime.fromisoformat(one.pop("time")) for one in found]
    assert times == sorted(times)
    assert all(time.tzinfo == UTC for time in times)
    assert found == [
        {
            "event": "started",
            "kind": "train",
            "net": "LeNet",
            "ranks": 2,
            "backend": "gloo",
            "device": "cpu",
            "batch_size": 64,
            "iteration": 0,
            "max_iter": 1000,
            "model": "/m/lenet.caffemodel",
        },
        {
            "event": "train",
            "iteration": 100,
            "loss": 0.25,
            "lr": 0.01,
            "images_per_second": 1234.5,
            "seconds": 0.8,
            "outputs": {"loss": 0.25, "per_class": [0.5, 0.75]},
        },
        {"event": "test", "iteration": 200, "net": 1, "outputs": {"accuracy": 0.97}},
        {"event": "snapshot", "iteration": 200, "path": "/m/a.caffemodel", "state": "/m/a.solverstate"},
        {"event": "finished", "iteration": 1000, "seconds": 60.5, "images": 128000},
        {"event": "failed", "error": "rank 1 died"},
        {"event": "skipped", "rank": 1, "records": 2, "seen": 640, "example": "record 7 of x has no label"},
    ]


def test_numbers_that_are_not_finite_are_null_and_named(path: str) -> None:
    metrics = MetricsFile(open_lines(path))
    metrics.emit(TrainStep(1, math.nan, 0.01, {"loss": [math.inf], "prob": [0.5, -math.inf]}, 100.0, 1.0))
    (found,) = objects(path)
    assert found["loss"] is None
    assert found["outputs"] == {"loss": None, "prob": [0.5, None]}
    assert found["nonfinite"] == {"loss": "NaN", "outputs.loss": "Infinity", "outputs.prob[1]": "-Infinity"}


def test_lines_are_there_at_once_and_a_resumed_run_appends(path: str) -> None:
    first = MetricsFile(open_lines(path))
    first.emit(STEP)
    assert len(objects(path)) == 1
    second = MetricsFile(open_lines(f"file:{path}"))
    second.emit(STEP)
    second.close()
    assert len(objects(path)) == 2


CRASH = """
import os, signal, sys
from cos_runtime.engine.report.events import TrainStep
from cos_runtime.engine.report.lines import open_lines
from cos_runtime.engine.report.metrics_file import MetricsFile

metrics = MetricsFile(open_lines(sys.argv[1]))
for iteration in range(50):
    metrics.emit(TrainStep(iteration, 0.5, 0.01, {"loss": [0.5]}, 100.0, 1.0))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_leaves_whole_lines(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [one["iteration"] for one in objects(path)] == list(range(50))


def test_a_line_cut_off_by_a_full_disk_does_not_spoil_the_file(path: str) -> None:
    storage.write_bytes(path, b'{"event": "train", "iteration": 1}\n{"event": "tra')
    metrics = MetricsFile(open_lines(path))
    metrics.emit(STEP)
    metrics.close()
    assert [one["iteration"] for one in objects(path)] == [1, 100]


def test_a_url_is_written_at_snapshots_and_at_the_end() -> None:
    url = f"memory://{uuid.uuid4().hex}/metrics.jsonl"
    metrics = MetricsFile(open_lines(url))
    metrics.emit(STEP)
    assert not storage.exists(url)
    metrics.emit(SnapshotSaved(100, "a"))
    assert len(objects(url)) == 2
    metrics.emit(STEP)
    assert len(objects(url)) == 2
    metrics.close()
    assert len(objects(url)) == 3


def test_a_resumed_run_appends_at_a_url() -> None:
    url = f"memory://{uuid.uuid4().hex}/metrics.jsonl"
    for _ in range(2):
        metrics = MetricsFile(open_lines(url))
        metrics.emit(STEP)
        metrics.close()
    assert len(objects(url)) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/metrics.jsonl cannot be written \(File exists\): give a model path"):
        open_lines(str(tmp_path / "file" / "metrics.jsonl"))
