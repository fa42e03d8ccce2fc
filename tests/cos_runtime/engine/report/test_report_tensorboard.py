import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cos_runtime.engine.report.events import Event, JobStarted, Progress, SnapshotSaved, TestPass, TrainStep
from cos_runtime.engine.report.tensorboard import TensorBoard


def started(iteration: int = 0) -> JobStarted:
    return JobStarted("train", 1, "gloo", "cpu", 64, iteration=iteration, max_iter=1000)


def step(iteration: int, loss: float, rate: float | None = 0.01) -> TrainStep:
    return TrainStep(iteration, loss, rate, {"loss": [loss]}, 1000.0, 1.0)


def write(folder: str, *events: Event) -> None:
    board = TensorBoard(folder)
    for event in events:
        board.emit(event)
    board.close()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, pytest.approx(one.value)) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_curves_of_training_and_tests(tmp_path: Path) -> None:
    tests = [TestPass(100, 0, {"accuracy": [0.9], "per_class": [0.8, 1.0]}), TestPass(100, 1, {"accuracy": [0.7]})]
    write(str(tmp_path), started(), step(0, 2.5), Progress(50, 1.0), step(100, 0.5), *tests, step(200, 0.25, None))
    assert curves(tmp_path) == {
        "train/loss": [(0, 2.5), (100, 0.5), (200, 0.25)],
        "train/lr": [(0, 0.01), (100, 0.01)],
        "train/images_per_second": [(0, 1000.0), (100, 1000.0)],
        "test/accuracy": [(100, 0.9)],
        "test/per_class/0": [(100, 0.8)],
        "test/per_class/1": [(100, 1.0)],
        "test_1/accuracy": [(100, 0.7)],
    }


def test_a_blob_of_a_whole_batch_has_no_curves(tmp_path: Path) -> None:
    write(str(tmp_path), TestPass(0, 0, {"prob": [0.1] * 1000, "accuracy": [0.9]}))
    assert list(curves(tmp_path)) == ["test/accuracy"]


def test_a_resumed_run_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    write(str(tmp_path), started(), step(0, 2.0), step(100, 1.0), step(200, 0.5))
    write(str(tmp_path), started(150), step(200, 0.6), step(300, 0.4))
    assert len(list(tmp_path.iterdir())) == 2
    # The first run's point at 200 was past the snapshot at 150.
    assert curves(tmp_path)["train/loss"] == [(0, 2.0), (100, 1.0), (200, 0.6), (300, 0.4)]


def test_a_snapshot_flushes(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.emit(step(0, 2.0))
    board.emit(SnapshotSaved(0, "a"))
    assert curves(tmp_path)["train/loss"] == [(0, 2.0)]
    board.close()


def test_a_job_without_curves_leaves_no_folder(tmp_path: Path) -> None:
    job = JobStarted("features", 1, "gloo", "cpu", 64)
    write(str(tmp_path / "tensorboard"), job, Progress(1, 1.0), SnapshotSaved(0, "a"))
    assert not (tmp_path / "tensorboard").exists()


def test_a_url_gets_the_files(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/tensorboard"
    board = TensorBoard(url)
    board.emit(step(0, 2.0))
    board.emit(SnapshotSaved(0, "a"))
    memory = fsspec.filesystem("memory")
    assert len(memory.ls(url, detail=False)) == 1
    board.emit(step(100, 1.0))
    board.close()
    memory.get(url, str(tmp_path), recursive=True)
    folder = next(path.parent for path in tmp_path.rglob("events.*"))
    assert curves(folder)["train/loss"] == [(0, 2.0), (100, 1.0)]


def test_neither_torch_nor_pyspark_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from cos_runtime.engine.report.events import TrainStep\n"
        "from cos_runtime.engine.report.reporters import open_reporters\n"
        "assert 'tensorboard' not in sys.modules\n"
        "with open_reporters(sys.argv[1], terminal=False) as reporters:\n"
        "    reporters.emit(TrainStep(0, 1.0, 0.01, {}, 1.0, 1.0))\n"
        "print(sorted({'torch', 'pyspark', 'tensorboard'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout == "['tensorboard']\n"
