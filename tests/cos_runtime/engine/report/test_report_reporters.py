import json
import logging
import pickle
from pathlib import Path

import pytest

from cos_runtime.engine.report.events import Event, JobFinished, JobStarted, Progress, TestPass, TrainStep
from cos_runtime.engine.report.reporters import Reporters, open_reporters
from cos_runtime.errors import UserError
from tests.cos_runtime.engine.listener import Listener

JOB = JobStarted("train", 1, "gloo", "cpu", 64, max_iter=100, net="LeNet")
STEP = TrainStep(0, 2.3, 0.01, {"loss": [2.3]}, 100.0, 1.0, {"loss": 1.0})


class Broken:
    def emit(self, event: Event) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_broken_report_is_a_warning_once_and_hinders_no_other(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with caplog.at_level(logging.WARNING), Reporters([Broken(), listener]) as reporters:
        reporters.emit(JOB)
        reporters.emit(STEP)
    assert listener.events == [JOB, STEP]
    assert listener.closed == 1
    (warning,) = caplog.messages
    assert "Broken has gaps from here on, the job goes on: OSError" in warning
    assert "No space left" in warning


def test_it_closes_when_the_job_raises_and_only_once() -> None:
    listener = Listener()
    reporters = Reporters([listener])
    with pytest.raises(KeyboardInterrupt), reporters:
        raise KeyboardInterrupt
    reporters.close()
    reporters.emit(Progress(1, 1.0))
    assert (listener.events, listener.closed) == ([], 1)


def test_a_folder_gets_all_files_and_standard_error_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with open_reporters(str(tmp_path / "models"), terminal=False) as reporters:
            for event in [JOB, STEP, TestPass(100, 0, {"accuracy": [0.9]}), JobFinished(100, 1.0, 6400)]:
                reporters.emit(event)
    folder = tmp_path / "models"
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "tensorboard", "train.log"]
    assert (folder / "train.log").read_text().count("Solving LeNet") == 2
    kinds = [json.loads(line)["event"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["started", "train", "test", "finished"] * 2
    assert len(list((folder / "tensorboard").iterdir())) == 2
    captured = capsys.readouterr().err
    assert "Solving LeNet" in captured
    assert f"tensorboard --logdir {folder / 'tensorboard'}" in captured
    assert "\x1b" not in captured


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_reporters(None) as reporters:
        reporters.emit(JOB)
        reporters.emit(JobFinished(100, 1.0, 6400))
    assert list(tmp_path.iterdir()) == []
    assert "tensorboard" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_reporters(str(tmp_path / "models"))


def test_events_travel_from_the_ranks() -> None:
    assert pickle.loads(pickle.dumps(STEP)) == STEP
