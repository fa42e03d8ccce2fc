import io

import pytest
import rich.console

from cos_runtime.engine.report import wording
from cos_runtime.engine.report.events import JobFinished, JobStarted, RecordsSkipped, SnapshotSaved, TestPass, TrainStep
from cos_runtime.engine.report.files import ReportFiles
from cos_runtime.engine.report.record import JobRecord
from cos_runtime.engine.report.summary import Section, Summary, job_summary

DEMO = Summary(
    "Ready",
    (Section("Model", (("file", "/opt/a [b]/lenet.caffemodel"),)), Section("Empty", ())),
    (("look at it", "tensorboard --logdir /opt/" + "folder/" * 20),),
)


def trained() -> JobRecord:
    record = JobRecord()
    for event in [
        JobStarted("train", 4, "nccl", "cuda", 64, 500, 1000, net="LeNet", model_path="s3://b/m/lenet.caffemodel"),
        TrainStep(900, 0.01234567, 0.01, {}, 10000.0, 1.0),
        TestPass(1000, 0, {"accuracy": [0.9907], "loss": [0.031]}),
        SnapshotSaved(1000, "s3://b/m/l_iter_1000.caffemodel", "s3://b/m/l_iter_1000.solverstate"),
        JobFinished(1000, 12.8, 128_000),
    ]:
        record.emit(event)
    return record


def test_the_summary_of_a_job() -> None:
    assert str(job_summary(trained(), ReportFiles("s3://b/m"))).splitlines() == [
        "LeNet: trained in 13 s",
        "  Run",
        "    iterations  1,000 (from 500)",
        "    on          4 ranks on cuda (nccl), 64 images each a step",
        "    images      128,000, 10,000 images/s on average",
        "    last loss   0.01235",
        "  Test",
        "    accuracy  99.07 %",
        "    loss      0.031",
        "  Files",
        "    model          s3://b/m/lenet.caffemodel",
        "    last snapshot  s3://b/m/l_iter_1000.solverstate",
        "    log            s3://b/m/train.log",
        "    metrics        s3://b/m/metrics.jsonl",
        "  see the curves: tensorboard --logdir s3://b/m/tensorboard",
    ]


def test_a_job_that_left_little_has_a_short_summary() -> None:
    record = JobRecord()
    record.emit(JobStarted("features", 1, "gloo", "cpu", 100))
    record.emit(JobFinished(20, 1.5, 2000))
    assert str(job_summary(record)).splitlines() == [
        "The net: features extracted in 1.5 s",
        "  Run",
        "    iterations  20",
        "    on          1 rank on cpu, 100 images a step",
        "    images      2,000, 1,333 images/s on average",
    ]


def test_an_early_end_and_several_test_nets_show() -> None:
    record = trained()
    record.emit(TestPass(600, 1, {"accuracy": [0.5]}))
    record.emit(JobFinished(600, 1.0, 6400))
    text = str(job_summary(record))
    assert "iterations  600 of 1,000 (from 500)" in text
    assert "accuracy (net #1)  50 %" in text


def test_damaged_records_of_all_ranks_are_summed() -> None:
    record = trained()
    for rank, records in ((0, 1), (1, 2), (1, 3)):
        record.emit(RecordsSkipped(rank, records, 600, "record 7 of x has no label"))
    assert "damaged     4 records left out by ranks that met 1,200" in str(job_summary(record))


def printed(summary: Summary, terminal: bool) -> str:
    stream = io.StringIO()
    summary.show(
        rich.console.Console(file=stream, force_terminal=terminal, width=60, color_system=None, legacy_windows=False)
    )
    return stream.getvalue()


def test_on_a_terminal_it_is_a_panel_with_commands_to_copy_below() -> None:
    lines = printed(DEMO, terminal=True).splitlines()
    assert lines[0].startswith("╭─ Ready ─")
    assert "│    file  /opt/a [b]/lenet.caffemodel  │" in lines
    assert "Empty" not in "".join(lines)
    assert lines[-1] == f"  look at it: {DEMO.next_steps[0][1]}"


def test_elsewhere_it_is_its_text() -> None:
    assert printed(DEMO, terminal=False) == f"{DEMO}\n"


def test_rich_can_print_it_too() -> None:
    console = rich.console.Console(file=io.StringIO(), width=60, record=True)
    console.print(DEMO)
    assert "│    file  /opt/a [b]/lenet.caffemodel  │" in console.export_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42, "42 s"),
        (60, "1 min"),
        (192.4, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("accuracy", [0.9813], "98.13 %"),
        ("top5_acc", [1.0], "100 %"),
        ("accumulated", [0.5], "0.5"),
        ("accuracy", [float("nan")], "nan"),
        ("per_class_accuracy", [0.5, 0.25], "50 % 25 %"),
        ("prob", [0.125] * 1000, "0.125 0.125 0.125 0.125 0.125 and 995 more"),
    ],
)
def test_scores(name: str, values: list[float], text: str) -> None:
    assert wording.score(name, values) == text
