"""What the driver says of a training and keeps of it, where the job is cancelled meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine.failures import JobCancelled
from cos_runtime.engine.job import TrainingPlan, TrainJob
from cos_runtime.engine.line import Message
from cos_runtime.engine.report.events import JobFailed
from cos_runtime.engine.report.reporters import Reporters
from cos_runtime.engine.snapshots import CHECKPOINT, Snapshots
from cos_runtime.engine.tell import Teller
from tests.cos_runtime.engine.listener import Listener


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def teller(tmp_path: Path, heard: Listener) -> Teller:
    prefix = f"{tmp_path}/model_checkpoint"
    snapshots = Snapshots(SolverParameter(), prefix="", model="", checkpoint_prefix=prefix, kept=1)
    job = cast("TrainJob", SimpleNamespace(records_a_step=64))
    plan = cast("TrainingPlan", SimpleNamespace(snapshots=snapshots, iteration=0, loss_weights={}))
    return Teller(job, plan, Reporters([heard]))


def checkpoint(iteration: int) -> Message:
    return Message("snapshot", {"iteration": iteration, "purpose": CHECKPOINT}, (b"model", b"state"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_once_cancelled_nothing_more_is_said_or_removed(teller: Teller, heard: Listener, tmp_path: Path) -> None:
    teller(checkpoint(10))
    teller.cancelled()
    assert isinstance(heard.events[-1], JobFailed)
    assert f"iteration 10: go on with -snapshot {tmp_path}/model_checkpoint_iter_10.solver" in heard.events[-1].sentence
    before, said = names(tmp_path), len(heard.events)
    teller.cancelled()
    teller(checkpoint(20))
    ends: list[Callable[[], Any]] = [
        teller.finish,
        lambda: teller.failed("rank 0 on a: it was killed"),
        lambda: teller.restarting("rank 0 on a: it was killed", 1, 3),
        teller.refuse_cancelled,
        lambda: teller(Message("started", {"device": "cpu"})),
    ]
    for end in ends:
        with pytest.raises(JobCancelled):
            end()
    assert (names(tmp_path), len(heard.events)) == (before, said)


@pytest.mark.parametrize(("takes", "named"), [(0.2, 20), (2.0, 10)])
def test_a_snapshot_that_is_being_written_is_waited_for_but_not_long(  # noqa: PLR0917 - fixtures
    teller: Teller, heard: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float, named: int
) -> None:
    teller(checkpoint(10))
    begun, over, save = threading.Event(), threading.Event(), Snapshots.save

    def slow(*args: Any) -> Any:
        begun.set()
        over.wait(takes)
        return save(*args)

    monkeypatch.setattr(Snapshots, "save", slow)
    writer = threading.Thread(target=teller, args=(checkpoint(20),))
    writer.start()
    begun.wait(10)
    teller.cancelled()
    over.set()
    writer.join(10)
    (last,) = [event.sentence for event in heard.events if isinstance(event, JobFailed)]
    assert f"_iter_{named}.solverstate" in last
    assert f"model_checkpoint_iter_{named}.solverstate" in names(tmp_path), "though one alone is kept"


def test_a_job_that_has_ended_is_not_cancelled(teller: Teller, heard: Listener, tmp_path: Path) -> None:
    teller(checkpoint(10))
    teller.finish()
    said = len(heard.events)
    teller.cancelled()
    assert (names(tmp_path), len(heard.events)) == ([], said)
