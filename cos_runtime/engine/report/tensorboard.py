"""Curves for TensorBoard."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cos_runtime import storage
from cos_runtime.engine.report.events import Event, JobStarted, Outputs, SnapshotSaved, TestPass, TrainStep

# A blob of more values (an unused probability blob of a whole batch) makes no curves that anybody reads.
_MOST_CURVES = 100
_FLUSH_SECONDS = 5


class TensorBoard:
    """Writes event files: ``train/loss``, ``train/lr``, ``train/images_per_second``, ``test/BLOB``.

    A blob of several values has a curve for each (``test/BLOB/0``), one of more than 100 has none; the solver's second
    test net is ``test_1``. Every run adds a file of its own to the folder, and a resumed run hides what the broken one
    drew past the snapshot. For a URL the file is written locally and copied at snapshots and at the end.

    Args:
        folder: path or URL for ``tensorboard --logdir``.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._copy = tempfile.TemporaryDirectory(prefix="tensorboard-") if storage.is_remote(folder) else None
        self._writer: Any = None

    def emit(self, event: Event) -> None:
        """Draw the event's points."""
        match event:
            case JobStarted(kind="train"):
                # The mark by which TensorBoard hides earlier points from this iteration on.
                self._add(event.iteration, session_log={"status": "START"})
            case TrainStep():
                self._scalars(event.iteration, _train_scalars(event))
            case TestPass():
                group = f"test_{event.net_index}" if event.net_index else "test"
                self._scalars(event.iteration, _curves(group, event.outputs))
            case SnapshotSaved() if self._writer is not None:
                self._writer.flush()
                self._publish()

    def close(self) -> None:
        """Write the last points and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._publish()
        if self._copy is not None:
            self._copy.cleanup()

    def _scalars(self, iteration: int, scalars: Iterator[tuple[str, float]]) -> None:
        self._add(iteration, summary={"value": [{"tag": tag, "simple_value": value} for tag, value in scalars]})

    def _add(self, iteration: int, **content: Any) -> None:
        # Imported late: a second of the start that jobs without curves need not spend. TensorBoard's own writer, where
        # torch's would load torch on the driver.
        from tensorboard.compat.proto import event_pb2  # type: ignore[import-untyped]  # noqa: PLC0415
        from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]  # noqa: PLC0415

        if self._writer is None:
            local = self._copy.name if self._copy is not None else storage.local_path(self._folder)
            self._writer = event_file_writer.EventFileWriter(local, flush_secs=_FLUSH_SECONDS)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=iteration, **content))

    def _publish(self) -> None:
        if self._copy is not None:
            for written in Path(self._copy.name).iterdir():
                storage.write_bytes(storage.resolve(written.name, self._folder), written.read_bytes())


def _train_scalars(step: TrainStep) -> Iterator[tuple[str, float]]:
    yield "train/loss", step.loss
    if step.rate is not None:
        yield "train/lr", step.rate
        yield "train/images_per_second", step.images_per_second


def _curves(group: str, outputs: Outputs) -> Iterator[tuple[str, float]]:
    for name, values in outputs.items():
        if len(values) == 1:
            yield f"{group}/{name}", values[0]
        elif len(values) <= _MOST_CURVES:
            for index, value in enumerate(values):
                yield f"{group}/{name}/{index}", value
