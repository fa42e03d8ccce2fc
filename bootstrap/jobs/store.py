"""The directory of jobs on their machine: one directory a job, named by its number.

``job.json`` is the record, ``log`` what the job says, ``work`` its own directory, ``lock`` what its runner holds while
it lives, and holds the runner's process id.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from bootstrap.errors import LaunchError
from bootstrap.jobs.record import WORK, JobRecord, JobSpec, now

# So long a runner may take from being started to holding its lock.
_START_GRACE = timedelta(seconds=60)


class JobStore:
    """The jobs below a directory.

    Args:
        root: The directory, made where it is missing.
        user: Whose the jobs' directories become; by default ours.
    """

    def __init__(self, root: Path, user: str | None = None) -> None:
        self.root = root
        self.user = user

    def folder(self, job: str) -> Path:
        """A job's directory."""
        return self.root / job

    def create(self, spec: JobSpec, retry_of: str | None = None) -> tuple[JobRecord, bool]:
        """Enter a job, once, however often its spec comes; the record, and whether it is new."""
        for record in self.all():
            if record.token == spec.token:
                return record, False
        folder = self._new_folder()
        work = folder / "work"
        work.mkdir()
        known = spec.model_dump_json().replace(WORK, json.dumps(str(work))[1:-1])
        entered = JobSpec.model_validate_json(known)
        record = JobRecord(**dict(entered), id=folder.name, submitted=now(), retry_of=retry_of)
        self.write(record)
        (folder / "log").touch()
        if self.user:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, self.user)
        return record, True

    def write(self, record: JobRecord) -> None:
        """Write a job's record: a reader sees the old one or the new one."""
        path = self.folder(record.id) / "job.json"
        # The folder is the job's user's, and we may be root: a name that cannot be known is no link to elsewhere.
        handle, beside = tempfile.mkstemp(prefix=".job.json.", dir=path.parent)
        try:
            with open(handle, "w") as file:
                os.fchmod(handle, 0o644)
                file.write(record.model_dump_json(indent=2))
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise

    def read(self, job: str) -> JobRecord:
        """A job's record; one whose runner is gone without a word has failed.

        Raises:
            LaunchError: There is no such job.
        """
        # In this order: a runner that ends in between has written its last word before.
        is_alive = self.pid(job) is not None
        try:
            told = JobRecord.model_validate_json((self.folder(job) / "job.json").read_text())
        except FileNotFoundError:
            raise LaunchError(f"There is no job {job!r}: `cos jobs` lists them.") from None
        record = told.model_copy(update={"id": job})  # the job can rewrite it, but not where it lies
        if record.is_over or is_alive:
            return record
        if record.state == "queued" and now() - record.submitted < _START_GRACE:
            return record
        if self.pid(job) is not None:  # it began just now
            return self.read(job)
        message = "its process is gone: the machine was restarted, or had no memory left"
        return record.model_copy(update={"state": "failed", "message": message})

    def all(self) -> Iterator[JobRecord]:
        """The jobs, oldest first."""
        for job in self._entered():
            yield self.read(job)

    def before(self, job: str) -> str | None:
        """The newest job that a job has to wait for; None when its turn has come."""
        earlier = [other for other in self._entered() if int(other) < int(job)]
        return next((other for other in reversed(earlier) if not self.read(other).is_over), None)

    def _entered(self) -> list[str]:
        """The jobs' numbers, but for a folder that was made and, on a full disk say, got no record."""
        return [str(number) for number in self._numbers() if (self.folder(str(number)) / "job.json").exists()]

    def pid(self, job: str) -> int | None:
        """The process id of a job's runner; None where it does not live."""
        try:
            with (self.folder(job) / "lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(lock.read() or 0)
        except FileNotFoundError:
            pass
        return None

    def hold(self, job: str) -> int:
        """Hold a job's lock for as long as this process lives; returns what keeps it."""
        lock = os.open(self.folder(job) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock

    def facts(self) -> Mapping[str, str]:
        """Where things are, for whoever comes by a wire."""
        return {"jobs": str(self.root), "files": str(self.root.parent / "files")}

    def _numbers(self) -> list[int]:
        if not self.root.is_dir():
            return []
        return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdigit())

    def _new_folder(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        number = (self._numbers() or [0])[-1]
        while True:
            number += 1
            try:
                self.folder(str(number)).mkdir()
            except FileExistsError:  # another submission was quicker
                continue
            return self.folder(str(number))
