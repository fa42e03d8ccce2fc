"""Caffe's own log lines, so that scripts that parse a Caffe log work on ours."""

import os
from collections.abc import Iterator, Mapping
from datetime import datetime

from cos_runtime.engine.report import wording
from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Outputs,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.lines import Lines

# The files that these lines come from in Caffe: scripts select by them.
_SOLVER = "solver.cpp:239"
_SGD_SOLVER = "sgd_solver.cpp:106"


class CaffeLog:
    """Writes what Caffe's solver logs, in glog's format and with C++'s digits.

    Args:
        lines: where to; closed with the reporter.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._job: JobStarted | None = None
        self._last_display = 0

    def emit(self, event: Event) -> None:
        """Write the event's lines."""
        match event:
            case JobStarted():
                self._job = event
                self._last_display = event.iteration
                if event.kind == "train":
                    self._info(f"Solving {event.net}")
            case TrainStep():
                self._train_step(event)
            case TestPass():
                self._info(f"Iteration {event.iteration}, Testing net (#{event.net_index})")
                self._outputs("Test", event.outputs, event.loss_weights)
            case RecordsSkipped():
                self._lines.write(glog_line(wording.skipped(event), severity="W"))
            case SnapshotSaved():
                self._snapshot(event)
            case JobFinished() if self._job and self._job.kind == "train":
                early = self._job.max_iter is not None and event.iteration < self._job.max_iter
                self._info("Optimization stopped early." if early else "Optimization Done.")
            case JobFailed():
                for sentence in event.sentence.splitlines():
                    self._lines.write(glog_line(sentence, severity="E"))

    def close(self) -> None:
        """Close the lines."""
        self._lines.close()

    def _train_step(self, step: TrainStep) -> None:
        if step.rate is None:
            self._info(f"Iteration {step.iteration}, loss = {step.loss:g}")
        else:
            done = step.iteration - self._last_display
            display = (self._job.display if self._job else 0) or done
            timing = f"{done / (step.seconds or 1):g} iter/s, {step.seconds:g}s/{display} iters"
            self._info(f"Iteration {step.iteration} ({timing}), loss = {step.loss:g}")
        self._last_display = step.iteration
        self._outputs("Train", step.outputs, step.loss_weights)
        if step.rate is not None:
            self._lines.write(glog_line(f"Iteration {step.iteration}, lr = {step.rate:g}", _SGD_SOLVER))

    def _outputs(self, phase: str, outputs: Outputs, weights: Mapping[str, float]) -> None:
        for index, (name, value) in enumerate(_flat(outputs)):
            weight = weights.get(name, 0)
            loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            self._info(f"    {phase} net output #{index}: {name} = {value:g}{loss}")

    def _snapshot(self, snapshot: SnapshotSaved) -> None:
        kind = "HDF5" if snapshot.path.endswith(".h5") else "binary proto"
        self._info(f"Snapshotting to {kind} file {snapshot.path}")
        if snapshot.state_path is not None:
            text = f"Snapshotting solver state to {kind} file {snapshot.state_path}"
            self._lines.write(glog_line(text, _SGD_SOLVER))
        self._lines.publish()

    def _info(self, text: str) -> None:
        self._lines.write(glog_line(text))


def glog_line(text: str, place: str = _SOLVER, severity: str = "I") -> str:
    """A line as Google's glog prefixes it: severity, date and local time, process, place."""
    return f"{severity}{datetime.now():%m%d %H:%M:%S.%f} {os.getpid():5d} {place}] {text}"


def _flat(outputs: Outputs) -> Iterator[tuple[str, float]]:
    for name, values in outputs.items():
        for value in values:
            yield name, value
