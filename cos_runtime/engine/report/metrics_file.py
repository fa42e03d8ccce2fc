"""A job's numbers for programs: one JSON object a line."""

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Outputs,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.lines import Lines


class MetricsFile:
    """Writes ``metrics.jsonl``.

    Every object has ``time`` (ISO 8601, UTC) and ``event``; the rest depends on the event:

    ========= =========================================================================================
    started   ``kind``, ``net``, ``ranks``, ``backend``, ``device``, ``batch_size``, ``iteration``,
              ``max_iter``, ``model``
    train     ``iteration``, ``loss``, ``lr`` (null in the pass after the last update),
              ``images_per_second``, ``seconds``, ``outputs``
    test      ``iteration``, ``net``, ``outputs``
    skipped   ``rank``, ``records``, ``seen``, ``example``: damaged records that a rank has left out so far
    snapshot  ``iteration``, ``path``, ``state``
    finished  ``iteration``, ``seconds``, ``images``
    failed    ``error``
    ========= =========================================================================================

    ``outputs`` maps a blob's name to its value, or to a list where it has several. JSON knows no infinity: a number
    that is not finite is null, and ``nonfinite`` then maps its name (``loss``, ``outputs.loss``) to ``NaN``,
    ``Infinity`` or ``-Infinity``; in a list, ``outputs.prob[3]``. A run that resumes appends: where an iteration comes
    twice, the later line counts.

    Args:
        lines: where to; closed with the reporter.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def emit(self, event: Event) -> None:
        """Write the event's line; signs of life have none."""
        if isinstance(event, Progress):
            return
        record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **_record(event)}
        nonfinite: dict[str, str] = {}
        record = {key: _finite(key, value, nonfinite) for key, value in record.items()}
        if nonfinite:
            record["nonfinite"] = nonfinite
        self._lines.write(json.dumps(record, allow_nan=False))
        if isinstance(event, SnapshotSaved):
            self._lines.publish()

    def close(self) -> None:
        """Close the lines."""
        self._lines.close()


def _record(event: Event) -> dict[str, Any]:
    match event:
        case JobStarted():
            kind, facts = "started", _started(event)
        case TrainStep():
            kind, facts = "train", _step(event)
        case TestPass():
            kind, facts = "test", {"net": event.net_index, "outputs": _outputs(event.outputs)}
        case RecordsSkipped():
            kind, facts = "skipped", asdict(event)
        case SnapshotSaved():
            kind, facts = "snapshot", {"path": event.path, "state": event.state_path}
        case JobFinished():
            kind, facts = "finished", {"seconds": event.seconds, "images": event.images}
        case JobFailed():
            kind, facts = "failed", {"error": event.sentence}
        case _:
            raise TypeError(f"{type(event).__name__} is no event of a job")
    place = {"iteration": event.iteration} if hasattr(event, "iteration") else {}
    return {"event": kind, **place, **facts}


def _step(event: TrainStep) -> dict[str, Any]:
    return {
        "loss": event.loss,
        "lr": event.rate,
        "images_per_second": event.images_per_second,
        "seconds": event.seconds,
        "outputs": _outputs(event.outputs),
    }


def _started(job: JobStarted) -> dict[str, Any]:
    return {
        "kind": job.kind,
        "net": job.net,
        "ranks": job.ranks,
        "backend": job.backend,
        "device": job.device,
        "batch_size": job.batch_size,
        "max_iter": job.max_iter,
        "model": job.model_path,
    }


def _outputs(outputs: Outputs) -> dict[str, float | list[float]]:
    return {name: values[0] if len(values) == 1 else list(values) for name, values in outputs.items()}


def _finite(name: str, value: Any, nonfinite: dict[str, str]) -> Any:
    """The value with null for every number that is not finite; those are noted by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite[name] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    if isinstance(value, dict):
        return {key: _finite(f"{name}.{key}", inner, nonfinite) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(f"{name}[{index}]", inner, nonfinite) for index, inner in enumerate(value)]
    return value
