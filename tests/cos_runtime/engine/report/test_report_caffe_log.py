"""Caffe's lines, read back the way Caffe's own tools/extra/parse_log.py reads a log."""

import re
from datetime import datetime
from pathlib import Path

import pytest

from cos_runtime.engine.report.caffe_log import CaffeLog
from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.lines import open_lines

ITERATION = re.compile(r"Iteration (\d+)")
TRAIN_OUTPUT = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
TEST_OUTPUT = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
LEARNING_RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")
GLOG = re.compile(r"[IE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] ")

JOB = JobStarted(
    kind="train", ranks=2, backend="gloo", device="cpu", batch_size=64, max_iter=200, display=100, net="LeNet"
)
STEP = TrainStep(
    iteration=100,
    loss=0.2312345678,
    rate=0.00992565,
    outputs={"loss": [0.23], "accuracy": [0.9375]},
    images_per_second=15800,
    seconds=0.81,
    loss_weights={"loss": 1.0},
)
TEST = TestPass(iteration=100, net_index=0, outputs={"accuracy": [0.97], "loss": [1.5e-05]}, loss_weights={"loss": 1})


def written(folder: Path, *events: Event) -> list[str]:
    path = folder / "train.log"
    log = CaffeLog(open_lines(str(path)))
    for event in events:
        log.emit(event)
    log.close()
    return path.read_text().splitlines()


def texts(lines: list[str]) -> list[str]:
    return [GLOG.sub("", line, count=1) for line in lines]


def test_a_step_reads_as_in_caffe(tmp_path: Path) -> None:
    assert texts(written(tmp_path, JOB, STEP)) == [
        "Solving LeNet",
        "Iteration 100 (123.457 iter/s, 0.81s/100 iters), loss = 0.231235",
        "    Train net output #0: loss = 0.23 (* 1 = 0.23 loss)",
        "    Train net output #1: accuracy = 0.9375",
        "Iteration 100, lr = 0.00992565",
    ]


def test_a_test_pass_reads_as_in_caffe(tmp_path: Path) -> None:
    assert texts(written(tmp_path, TEST)) == [
        "Iteration 100, Testing net (#0)",
        "    Test net output #0: accuracy = 0.97",
        "    Test net output #1: loss = 1.5e-05 (* 1 = 1.5e-05 loss)",
    ]


def test_values_of_one_blob_are_numbered_on(tmp_path: Path) -> None:
    test = TestPass(0, 1, {"per_class": [0.5, 0.25], "loss": [2.0]}, {"loss": 0.5})
    assert texts(written(tmp_path, test)) == [
        "Iteration 0, Testing net (#1)",
        "    Test net output #0: per_class = 0.5",
        "    Test net output #1: per_class = 0.25",
        "    Test net output #2: loss = 2 (* 0.5 = 1 loss)",
    ]


def test_the_pass_after_the_last_update_has_no_rate(tmp_path: Path) -> None:
    last = TrainStep(iteration=200, loss=0.1, rate=None, outputs={}, images_per_second=0, seconds=0)
    assert texts(written(tmp_path, JOB, last, JobFinished(200, 2.0, 25600)))[1:] == [
        "Iteration 200, loss = 0.1",
        "Optimization Done.",
    ]


@pytest.mark.parametrize(
    ("snapshot", "lines"),
    [
        (
            SnapshotSaved(100, "m_iter_100.caffemodel", "m_iter_100.solverstate"),
            [
                "Snapshotting to binary proto file m_iter_100.caffemodel",
                "Snapshotting solver state to binary proto file m_iter_100.solverstate",
            ],
        ),
        (SnapshotSaved(100, "m_iter_100.caffemodel.h5"), ["Snapshotting to HDF5 file m_iter_100.caffemodel.h5"]),
    ],
)
def test_snapshots(tmp_path: Path, snapshot: SnapshotSaved, lines: list[str]) -> None:
    assert texts(written(tmp_path, snapshot)) == lines


def test_an_early_end_says_so(tmp_path: Path) -> None:
    assert texts(written(tmp_path, JOB, JobFinished(150, 2.0, 19200)))[-1] == "Optimization stopped early."


def test_a_job_that_trains_nothing_optimizes_nothing(tmp_path: Path) -> None:
    job = JobStarted(kind="test", ranks=1, backend="gloo", device="cpu", batch_size=100)
    assert written(tmp_path, job, Progress(3, 100.0), JobFinished(10, 1.0, 1000)) == []


def test_the_rate_of_a_resumed_run_counts_from_where_it_resumed(tmp_path: Path) -> None:
    job = JobStarted("train", 1, "gloo", "cpu", 64, iteration=1000, max_iter=2000, display=100)
    step = TrainStep(1100, 0.5, 0.01, {}, 6400, 2.0)
    assert texts(written(tmp_path, job, step))[1] == "Iteration 1100 (50 iter/s, 2s/100 iters), loss = 0.5"


def test_every_line_has_the_prefix_of_glog(tmp_path: Path) -> None:
    failed = JobFailed("rank 1 on node-2 died:\ntake a smaller batch")
    lines = written(tmp_path, JOB, STEP, TEST, SnapshotSaved(100, "a", "b"), failed)
    assert all(GLOG.match(line) for line in lines)
    assert [line[0] for line in lines[-2:]] == ["E", "E"]
    stamp = datetime.strptime(" ".join(lines[0].split()[:2])[1:], "%m%d %H:%M:%S.%f")
    assert abs((datetime.now() - stamp.replace(year=datetime.now().year)).total_seconds()) < 60


def test_parse_log_finds_all_numbers(tmp_path: Path) -> None:
    lines = written(tmp_path, JOB, TEST, STEP, TrainStep(200, 0.2, 1e-05, {"loss": [0.19]}, 100.0, 1.0))
    iteration, rate, train, tests = -1, float("nan"), [], []
    assert any("Solving" in line for line in lines)
    for line in lines:
        if found := ITERATION.search(line):
            iteration = int(found[1])
        if found := LEARNING_RATE.search(line):
            rate = float(found[1])
        if found := TRAIN_OUTPUT.search(line):
            train.append((iteration, found[2], float(found[3])))
        if found := TEST_OUTPUT.search(line):
            tests.append((iteration, found[2], float(found[3])))
    assert train == [(100, "loss", 0.23), (100, "accuracy", 0.9375), (200, "loss", 0.19)]
    assert tests == [(100, "accuracy", 0.97), (100, "loss", 1.5e-05)]
    assert rate == 1e-05


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    first = written(tmp_path, JOB, STEP)
    assert written(tmp_path, JOB)[: len(first)] == first
