"""A job's metrics, as the picture of the running job shows them."""

import io
import json
from datetime import UTC, datetime, timedelta

from rich.console import Console

from bootstrap.cli.live import job_picture
from bootstrap.jobs.record import JobRecord, LocalTarget
from bootstrap.progress import TrainingProgress

SUBMITTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line(after: float, event: str, **fields: object) -> bytes:
    time = (SUBMITTED + timedelta(seconds=after)).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": event, **fields}).encode() + b"\n"


def step(after: float, iteration: int, loss: float) -> bytes:
    return line(after, "train", iteration=iteration, loss=loss, lr=0.01, images_per_second=1000.0, seconds=2.0)


def test_the_picture_follows_the_metrics_however_they_are_cut() -> None:
    metrics = (
        line(4.2, "started", net="LeNet", ranks=2, device="cpu", max_iter=200, iteration=0)
        + step(6.5, 0, 2.3)
        + step(8.5, 100, 0.4)
    )
    progress = TrainingProgress()
    for start in range(0, len(metrics), 7):
        progress.feed(metrics[start : start + 7])
    target = LocalTarget()
    record = JobRecord(
        token="t", name="quick", kind="train", args=(), target=target, id="3", state="running", submitted=SUBMITTED
    )
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(job_picture(record, progress, []))
    text = console.export_text()
    assert "first step     6.5 s after the job was submitted" in text
    assert "0.4   (2.3 at first)" in text
    assert "100/200" in text
    assert progress.seconds_left == 2.0
