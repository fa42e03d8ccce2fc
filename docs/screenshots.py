"""Draws the launcher's main views into `docs/images`, by rich itself: ``python docs/screenshots.py``.

The pictures are made by the code that draws a terminal, from the events of a run of LeNet and from a preset's plan.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bootstrap.cli.live import job_picture
from bootstrap.jobs.record import JobRecord, LocalTarget, now
from bootstrap.progress import TrainingProgress
from infra.estimate import estimate, offline_lookup
from infra.plan import example, show
from infra.planned import plan

IMAGES = Path(__file__).parent / "images"
WIDTH = 88
EVENTS = (
    {"event": "started", "net": "LeNet", "ranks": 2, "device": "cpu", "iteration": 0, "max_iter": 1000},
    {"event": "test", "iteration": 0, "net": 0, "outputs": {"accuracy": 0.1021, "loss": 2.3612}},
    {"event": "train", "iteration": 0, "loss": 2.3518, "lr": 0.01, "images_per_second": 611.0, "seconds": 0.2},
    {"event": "train", "iteration": 500, "loss": 0.0862, "lr": 0.00964, "images_per_second": 1894.0, "seconds": 33.8},
    {"event": "test", "iteration": 500, "net": 0, "outputs": {"accuracy": 0.9786, "loss": 0.0662}},
    {"event": "snapshot", "iteration": 500, "path": "out/lenet_iter_500.caffemodel", "state": "x"},
    {"event": "train", "iteration": 600, "loss": 0.0711, "lr": 0.00957, "images_per_second": 1902.0, "seconds": 6.7},
)


def record(state: str, **changes: object) -> JobRecord:
    """A job of the pictures."""
    began = now() - timedelta(seconds=58)
    facts = {"id": "3", "name": "lenet_solver", "kind": "train", "state": state, "submitted": began, "started": began}
    spec = {"token": "x", "args": ["-train"], "target": LocalTarget()}
    return JobRecord.model_validate({**facts, **spec, **changes})


def progress() -> TrainingProgress:
    """How far that job is."""
    made = TrainingProgress()
    time = (now() - timedelta(seconds=52)).isoformat()
    made.feed("".join(f"{json.dumps({**event, 'time': time})}\n" for event in EVENTS).encode())
    return made


@contextmanager
def drawn(name: str, command: str) -> Iterator[Console]:
    """A console on which a command was typed; what the block prints on it becomes the picture `name`."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), command))
    yield console
    console.save_svg(str(IMAGES / f"{name}.svg"), title="cos", unique_id=name)


def draw(name: str, command: str, record: JobRecord, progress: TrainingProgress, tail: list[str]) -> None:
    """Draw a job."""
    with drawn(name, command) as console:
        console.print(job_picture(record, progress, tail))


def draw_plan(preset: str) -> None:
    """Draw what a preset makes and costs, at the prices of the project's table."""
    config = example(preset)
    with drawn("plan", f"cos plan --preset {preset}") as console:
        show(console, config, plan(config), estimate(config, offline_lookup(config)))


def main() -> None:
    """Draw all of them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    train = "cos train --solver lenet_solver.prototxt --model out/lenet.caffemodel"
    draw("attach", train, record("running"), progress(), [])
    waiting = ["cos: starting a Spark cluster of 2 workers on this machine"]
    draw("start", train, record("running"), TrainingProgress(), waiting)
    message = (
        'layer "data": 2 ranks with batch_size 64 take 128 records a step and the source has 100: lower batch_size'
    )
    failed = record("failed", ended=now(), exit_code=2, message=message)
    draw("failed", "cos attach 3", failed, TrainingProgress(), [f"error: {message}"])
    draw_plan("gpu-ethernet")


if __name__ == "__main__":
    main()
