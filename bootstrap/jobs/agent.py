"""The far end of the launcher on a job's machine: ``python -m bootstrap.jobs.agent [--root DIR] VERB``.

Answers with JSON on stdout, or with a sentence on stderr and exit code 2. What it does can be asked for again after a
connection broke: it is done once.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bootstrap.errors import LaunchError
from bootstrap.jobs.record import JobRecord, JobSpec, now
from bootstrap.jobs.start import start
from bootstrap.jobs.store import JobStore
from bootstrap.submit import INTERRUPTED, STOP_SECONDS

_USER_ERROR = 2
_POLL_SECONDS = 0.1


def _submit(store: JobStore, _job: str) -> object:
    record, is_new = store.create(JobSpec.model_validate_json(sys.stdin.read()))
    if is_new:
        start(store.folder(record.id), store.user)
    return _plain(record)


def _list(store: JobStore, _job: str) -> object:
    return [_plain(record) for record in store.all()]


def _show(store: JobStore, job: str) -> object:
    return _plain(store.read(job))


def _cancel(store: JobStore, job: str) -> object:
    """Ask the runner to stop, and kill it where it does not."""
    record = store.read(job)
    if record.is_over:
        raise LaunchError(f"Job {job} is over already: it {record.state}.")
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS + 15.0), (signal.SIGKILL, 5.0)):
        if _signal(store, job, number, seconds):
            break
    record = store.read(job)
    if record.state != "cancelled":
        ended = {"state": "cancelled", "ended": now(), "exit_code": INTERRUPTED, "message": ""}
        record = record.model_copy(update=ended)
        store.write(record)
    return _plain(record)


def _signal(store: JobStore, job: str, number: int, seconds: float) -> bool:
    """Send a signal to the runner, and whether it is gone within the seconds."""
    deadline = time.monotonic() + seconds
    if pid := store.pid(job):
        os.kill(pid, number)
    while store.pid(job) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _retry(store: JobStore, job: str) -> object:
    """Enter a job anew, from its last snapshot where it has one."""
    record = store.read(job)
    if not record.is_over:
        raise LaunchError(f"Job {job} is still {record.state}: `cos cancel {job}` ends it.")
    token = sys.stdin.read()
    spec = JobSpec(**{**dict(record), "token": token, "args": resumed(record)})
    again, is_new = store.create(spec, retry_of=job)
    if is_new:
        start(store.folder(again.id), store.user)
    return _plain(again)


def resumed(record: JobRecord) -> tuple[str, ...]:
    """A job's arguments, so that training goes on from the last snapshot that is there."""
    snapshot = _last_snapshot(record)
    if snapshot is None:
        return record.args
    args = [*record.args]
    for flag, value in (("-snapshot", snapshot["state"]), ("-weights", snapshot["path"])):
        if flag in args:
            args[args.index(flag) + 1] = value
        else:
            args += [flag, value]
    return tuple(args)


def _last_snapshot(record: JobRecord) -> Mapping[str, Any] | None:
    if record.kind != "train" or record.metrics is None or not Path(record.metrics).exists():
        return None
    events = [json.loads(line) for line in Path(record.metrics).read_text().splitlines() if line.endswith("}")]
    snapshots = [event for event in events if event["event"] == "snapshot" and event["state"]]
    for event in reversed(snapshots):
        if Path(event["state"]).exists() and Path(event["path"]).exists():
            return dict(event)
    return None


def _room(store: JobStore, _job: str) -> object:
    """Make room for uploads, for whoever is behind sudo to write to."""
    facts = store.facts()
    files = Path(facts["files"])
    files.mkdir(parents=True, exist_ok=True)
    if "SUDO_UID" in os.environ:
        os.chown(files, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    return facts


def _plain(record: JobRecord) -> object:
    return record.model_dump(mode="json")


_VERBS: Mapping[str, Callable[[JobStore, str], object]] = {
    "submit": _submit,
    "list": _list,
    "show": _show,
    "cancel": _cancel,
    "retry": _retry,
    "room": _room,
}


def main() -> int:
    """Do what is asked and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/var/lib/cos/jobs"), help="the directory of jobs")
    parser.add_argument("--user", help="the user that jobs run as")
    parser.add_argument("verb", choices=_VERBS)
    parser.add_argument("job", nargs="?", default="")
    options = parser.parse_args()
    try:
        answer = _VERBS[options.verb](JobStore(options.root, options.user), options.job)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return _USER_ERROR
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
