import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import rich.console

from cos_runtime.engine.report.console import Console, Plain
from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.files import ReportFiles
from cos_runtime.engine.report.lines import StreamLines
from cos_runtime.engine.report.terminal import columns

JOB = JobStarted("train", 2, "gloo", "cpu", 64, max_iter=1000, display=100, net="LeNet")
STEP = TrainStep(500, 0.2312, 0.00992, {"loss": [0.2312]}, 12345.6, 0.8, {"loss": 1.0})
TEST = TestPass(500, 0, {"accuracy": [0.981], "loss": [0.0412]}, {"loss": 1.0})
LONG_PATH = "/data/" + "deep/" * 20 + "lenet_iter_500.caffemodel"
SNAPSHOT = SnapshotSaved(500, LONG_PATH, LONG_PATH.replace("caffemodel", "solverstate"))
DONE = JobFinished(1000, 192.0, 128_000)
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown(*events: Event, terminal: bool) -> str:
    stream = io.StringIO()
    to = rich.console.Console(file=stream, force_terminal=terminal, width=80, legacy_windows=False)
    console = Console(ReportFiles("/models"), terminal=terminal, console=to)
    for event in events:
        console.emit(event)
    console.close()
    return stream.getvalue()


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in re.split(r"[\r\n]+", CODES.sub("", text))]


def test_the_bar_shows_the_last_numbers_on_two_lines() -> None:
    lines = lines_of(shown(JOB, Progress(200, 900.0), STEP, terminal=True))
    bar = next(index for index in range(len(lines)) if "500/1000" in lines[index])
    assert re.fullmatch(r"Training LeNet ━+[╸╺]?━+  500/1000 0:00:0\d elapsed, (-:--:--|0:00:0\d) left", lines[bar])
    assert lines[bar + 1] == "  loss 0.2312   lr 0.00992   12,346 images/s"
    assert len(lines[bar]) <= 80


def test_a_sign_of_life_moves_the_bar_and_keeps_the_loss() -> None:
    text = shown(JOB, STEP, Progress(550, 99.64), terminal=True)
    assert "550/1000" in CODES.sub("", text)
    assert "  loss 0.2312   lr 0.00992   99.6 images/s" in lines_of(text)


def test_tests_and_snapshots_scroll_by_above_the_bar_uncut() -> None:
    lines = lines_of(shown(JOB, TEST, SNAPSHOT, TestPass(500, 1, {"acc": [1.0]}), terminal=True))
    assert "Training LeNet: iterations 0 to 1,000, 2 ranks on cpu (gloo), 64 images each a step" in lines
    assert "Iteration 500  test  accuracy = 98.1 %, loss = 0.0412" in lines
    assert f"Iteration 500  snapshot  {LONG_PATH}" in lines
    assert "Iteration 500  test net #1  acc = 100 %" in lines


def test_the_bar_gives_way_to_the_summary_and_the_cursor_comes_back() -> None:
    text = shown(JOB, STEP, TEST, DONE, terminal=True)
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    end = text[text.rfind("\x1b[?25h") :]
    assert "LeNet: trained in 3 min 12 s" in end
    assert "━" not in end


@pytest.mark.parametrize("terminal", [True, False])
def test_damaged_records_are_told(terminal: bool) -> None:
    skipped = RecordsSkipped(1, 3, 12_000, "record 7 of [x] has no label")
    text = CODES.sub("", shown(JOB, skipped, terminal=terminal))
    assert "Rank 1 left out 3 of 12,000 records: record 7 of [x] has no label" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_is_told_once(terminal: bool) -> None:
    sentence = (
        "rank 1 on node-2 died (out of memory): give it a batch_size [below] 64, as the memory there is too small"
    )
    text = CODES.sub("", shown(JOB, STEP, JobFailed(sentence), terminal=terminal))
    assert text.count(sentence) == 1
    assert "trained" not in text


def test_a_job_goes_on_after_a_failure() -> None:
    again = JobStarted("train", 2, "gloo", "cpu", 64, iteration=500, max_iter=1000, net="LeNet")
    lines = lines_of(shown(JOB, STEP, JobFailed("rank 1 died"), again, Progress(600, 1.0), DONE, terminal=True))
    assert any("600/1000" in line for line in lines)
    assert any(re.search(r"iterations +1,000 +│", line) for line in lines)


def test_without_a_total_there_is_still_a_bar() -> None:
    job = JobStarted("features", 2, "gloo", "cpu", 64, net="LeNet")
    assert "7/?" in shown(job, Progress(7, 640.0), terminal=True)


def test_without_a_terminal_there_are_caffes_lines_and_no_control_characters() -> None:
    text = shown(JOB, Progress(10, 1.0), STEP, TEST, SNAPSHOT, DONE, terminal=False)
    assert re.search(r"[^\n -~]", text) is None
    lines = text.splitlines()
    assert lines[0] == "Training LeNet: iterations 0 to 1,000, 2 ranks on cpu (gloo), 64 images each a step"
    glog = [line.partition("] ")[2] for line in lines if re.match(r"I\d{4} ", line)]
    assert glog[0] == "Solving LeNet"
    assert glog[1] == "Iteration 500 (625 iter/s, 0.8s/100 iters), loss = 0.2312"
    assert glog[-1] == "Optimization Done."
    # One line each: nothing is wrapped or told twice.
    assert sum("loss = 0.2312 (" in line for line in lines) == 1
    assert f"Snapshotting to binary proto file {LONG_PATH}" in glog
    summary = lines[lines.index("LeNet: trained in 3 min 12 s") :]
    assert f"    last snapshot  {SNAPSHOT.state_path}" in summary
    assert "  see the curves: tensorboard --logdir /models/tensorboard" in summary
    assert "" not in lines


def test_a_quiet_job_shows_once_a_minute_that_it_lives() -> None:
    now = 0.0
    stream = io.StringIO()
    plain = Plain(StreamLines(stream), clock=lambda: now)
    plain.emit(JOB)
    for iteration in range(1, 151):
        now += 1.0
        plain.emit(Progress(iteration, 1234.5))
    signs = re.findall(r"\] (Iteration \d+, .*)", stream.getvalue())
    assert signs == ["Iteration 60, 1,234 images/s", "Iteration 120, 1,234 images/s"]


def test_standard_error_decides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert columns() is None
    Console().emit(JOB)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Solving LeNet" in captured.err


SHOW_COLUMNS = "from cos_runtime.engine.report.terminal import columns; print(columns(), file=open({path!r}, 'w'))"


@pytest.mark.parametrize(("term", "expected"), [("xterm", "97"), ("dumb", "None")])
@pytest.mark.parametrize("by_spark_submit", [False, True])
def test_a_real_terminal_is_found(tmp_path: Path, term: str, expected: str, by_spark_submit: bool) -> None:
    script = SHOW_COLUMNS.format(path=str(tmp_path / "columns"))
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "TERM": term, "PYTHONPATH": os.pathsep.join(sys.path)}
    if by_spark_submit:  # which has the terminal, and hands its child pipes
        outer = f"import subprocess; subprocess.run({command!r}, capture_output=True, check=True)"
        command, environment = [sys.executable, "-c", outer], {**environment, "PYSPARK_GATEWAY_PORT": "1"}
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 97, 0, 0))
    subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, check=True, timeout=60)
    os.close(ours)
    os.close(theirs)
    assert (tmp_path / "columns").read_text().strip() == expected
