"""Numbers as people read them."""

import re
from collections.abc import Sequence

from cos_runtime.engine.report.events import JobStarted, Outputs, RecordsSkipped

_ACCURACY = re.compile(r"(?<![a-z])acc(uracy)?(?![a-z])", re.IGNORECASE)
# A blob with more values than this is not for reading in a line.
_SHOWN_VALUES = 5
_VERBS = {"train": "Training", "test": "Testing", "features": "Extracting features of"}


def activity(job: JobStarted) -> str:
    """What a job does, to what: ``Training LeNet``."""
    return f"{_VERBS[job.kind]} {job.net or 'the net'}"


def opening(job: JobStarted) -> str:
    """One line that tells what begins, on what."""
    end = "" if job.max_iter is None else f" to {job.max_iter:,}"
    span = f"iterations {job.iteration:,}{end}, " if job.kind == "train" else ""
    return f"{activity(job)}: {span}{machinery(job)}"


def machinery(job: JobStarted) -> str:
    """The ranks, their devices and batches: ``2 ranks on cpu (gloo), 64 images each a step``."""
    if job.ranks == 1:
        return f"1 rank on {job.device}, {job.batch_size:,} images a step"
    return f"{job.ranks} ranks on {job.device} ({job.backend}), {job.batch_size:,} images each a step"


def skipped(event: RecordsSkipped) -> str:
    """What damaged records a rank has left out: ``Rank 1 left out 3 of 12,000 records: record 7 of …``."""
    return f"Rank {event.rank} left out {event.records:,} of {event.seen:,} records: {event.example}"


def outputs_line(outputs: Outputs) -> str:
    """Net outputs in one line: ``accuracy = 98.13 %, loss = 0.0412``."""
    return ", ".join(f"{name} = {score(name, values)}" for name, values in outputs.items())


def score(name: str, values: Sequence[float]) -> str:
    """The values of one output blob; an accuracy in per cent."""
    percent = bool(_ACCURACY.search(name)) and all(0 <= value <= 1 for value in values)
    shown = [f"{100 * value:.4g} %" if percent else f"{value:.4g}" for value in values[:_SHOWN_VALUES]]
    more = len(values) - len(shown)
    return " ".join([*shown, f"and {more:,} more"] if more else shown)


def speed(images_per_second: float) -> str:
    """Images a second, of three digits at least."""
    return f"{images_per_second:,.0f} images/s" if images_per_second >= 100 else f"{images_per_second:.3g} images/s"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: ``0.8 s``, ``3 min 12 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)
