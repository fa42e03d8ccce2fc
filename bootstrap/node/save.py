"""What outlives a node: its logs, each job's last checkpoint and models, brought to the bucket in a given time."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from bootstrap.node.aws import AwsError
from bootstrap.node.context import Context

_GIVE_UP_AFTER = 3  # uploads in a row without any answer: the network is gone
_LOGS_OF_EXECUTORS = 64
_STATE = ".solverstate"

_log = logging.getLogger("save")


def save(context: Context, seconds: float) -> int:
    """Upload logs and last checkpoints, the smallest first.

    Args:
        context: The node.
        seconds: Limit for all of it.

    Returns:
        How many files did not make it.
    """
    deadline = time.monotonic() + seconds
    waiting = sorted(_files(context), key=lambda pair: _size(pair[1]))
    unsaved = unanswered = 0
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0 or unanswered == _GIVE_UP_AFTER:
            _log.error("%d files are not saved: %s", len(waiting), "no time" if left <= 0 else "no network")
            return unsaved + len(waiting)
        key, path = waiting.pop(0)
        try:
            context.aws.put_object(context.plan.bucket, key, path, left)
            unanswered = 0
        except OSError as error:
            _log.error("%s is not saved: %s", path, error)
            unsaved += 1
            unanswered = unanswered + 1 if isinstance(error, AwsError) and error.status == 0 else 0
    return unsaved


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it went meanwhile; the upload will say so
        return 0


def last_checkpoint(directory: Path) -> list[Path]:
    """The newest solver state below a directory, with the weights it goes on from."""
    states = [path for path in directory.rglob(f"*{_STATE}*") if path.is_file()]
    if not states:
        return []
    state = max(states, key=lambda path: path.stat().st_mtime)
    weights = state.with_name(state.name.replace(_STATE, ".caffemodel"))
    return [state, weights] if weights.is_file() else [state]


def _files(context: Context) -> Iterator[tuple[str, Path]]:
    """Pairs of an object's key and the file to store there."""
    # A bucket may be of several clusters, and job numbers begin anew with a new master.
    cluster, instance = context.plan.cluster, _instance(context)
    own = f"nodes/{instance}"
    for path in _below(context.layout.logs):
        yield f"{own}/logs/{path.relative_to(context.layout.logs)}", path
    if context.layout.status.is_file():
        yield f"{own}/status.json", context.layout.status
    work = context.layout.scratch / "work"
    logs = [path for path in _below(work) if path.name in ("stdout", "stderr")]
    for path in sorted(logs, key=lambda path: path.stat().st_mtime)[-_LOGS_OF_EXECUTORS:]:
        yield f"{own}/executors/{path.relative_to(work)}", path
    events = context.layout.state / "events"
    for path in _below(events):
        yield f"events/{cluster}/{path.relative_to(events)}", path
    jobs = context.layout.jobs
    for job in sorted(path for path in jobs.glob("*") if path.is_dir()):
        # A set: a model may be a job's result and its last checkpoint's weights.
        for path in {job / "job.json", job / "log", *last_checkpoint(job / "work"), *_models(job)}:
            if path.is_file():
                yield f"jobs/{cluster}/{instance}/{path.relative_to(jobs)}", path


def _models(job: Path) -> list[Path]:
    """What a job's record names as its results, files in the job's own directory alone."""
    try:
        results = json.loads((job / "job.json").read_text()).get("results", [])
        named = [Path(result["path"]) for result in results]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # half written, or of another version
        return []
    return [path for path in named if path.is_file() and path.resolve().is_relative_to(job.resolve())]


def _below(directory: Path) -> list[Path]:
    """Files below a directory, hidden ones (half written) left out."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))


def _instance(context: Context) -> str:
    try:
        return context.metadata.fact("instance-id")
    except OSError:
        return "unknown"
