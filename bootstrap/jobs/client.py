"""The jobs of a host, as the launcher sees them: the same for this machine and for a cluster's master."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from bootstrap.errors import LaunchError
from bootstrap.host import Host
from bootstrap.jobs import places
from bootstrap.jobs.record import JobRecord, JobSpec
from bootstrap.transfer import AGAIN_SECONDS, again

_USER_ERROR = 2
_CANCEL_SECONDS = 90.0


class Jobs:
    """The jobs below a directory of a host.

    Args:
        host: The host.
        root: The directory.
        prefix: What stands before the command of the host's Python, as `sudo -n`.
        user: The user that jobs run as; by default the one who asks.
        patience: Seconds for which a host that cannot be reached is asked again.
    """

    def __init__(
        self,
        host: Host,
        root: str,
        *,
        prefix: Sequence[str] = (),
        user: str | None = None,
        patience: float = AGAIN_SECONDS,
    ) -> None:
        self._patience = patience
        self.host = host
        self.root = root
        self._command = [*prefix, *host.python, "-m", "bootstrap.jobs.agent", "--root", root]
        if user:
            self._command += ["--user", user]

    def submit(self, spec: JobSpec) -> JobRecord:
        """Enter a job, which begins when those before it have ended."""
        return self._enter(spec.token, places.told(spec), "submit", given=spec.model_dump_json())

    def all(self) -> list[JobRecord]:
        """The jobs, oldest first."""
        return [JobRecord.model_validate(record) for record in self._ask("list")]

    def get(self, job: str) -> JobRecord:
        """A job by its number."""
        return JobRecord.model_validate(self._ask("show", job))

    def find(self, called: str | None) -> JobRecord:
        """A job by its number or name, the last of that name; without either, the last of all.

        Raises:
            LaunchError: There is none.
        """
        if called is not None and called.isdigit():
            return self.get(called)
        found = [record for record in self.all() if called in (None, record.name)]
        if not found:
            what = "no job yet" if called is None else f"no job {called!r}"
            raise LaunchError(f"There is {what} on {self.host.name}: `cos jobs` lists them, `cos train` makes one.")
        return found[-1]

    def cancel(self, job: str) -> JobRecord:
        """End a job."""
        return JobRecord.model_validate(self._ask("cancel", job, seconds=_CANCEL_SECONDS))

    def retry(self, record: JobRecord) -> JobRecord:
        """Enter a job again, from its last snapshot where it has one."""
        token = new_token()
        return self._enter(token, places.kept(record) or places.Places(), "retry", record.id, given=token)

    def room(self) -> str:
        """The directory for uploads, made where it is missing."""
        return str(self._ask("room")["files"])

    def log(self, job: str) -> str:
        """The path of a job's log."""
        return f"{self.root}/{job}/log"

    def peek(self, job: str) -> JobRecord:
        """A job's record as it is written, without a look at whether its runner lives."""
        told = JobRecord.model_validate_json(again()(self.host.files.read, f"{self.root}/{job}/job.json", 0))
        return told.model_copy(update={"id": job})  # the job can rewrite it

    def _enter(self, token: str, told: places.Places, *asked: str, given: str) -> JobRecord:
        """Have a job entered, and keep where it may write to here: before, as we may be killed while it is entered."""
        places.keep(token, told)
        record = JobRecord.model_validate(self._ask(*asked, given=given))
        places.keep(token, told, record.id)
        return record

    def _ask(self, verb: str, job: str = "", *, given: str = "", seconds: float | None = None) -> Any:
        command = [*self._command, verb, *([job] if job else [])]
        finished = again(self._patience)(self.host.run, command, given=given.encode(), seconds=seconds)
        errors = finished.errors.decode(errors="replace").strip()
        if finished.code == _USER_ERROR and errors:
            raise LaunchError(errors.splitlines()[-1])
        if finished.code:
            raise LaunchError(
                f"{self.host.name} cannot run jobs: `{' '.join(command[:4])} ...` ended with exit code "
                f"{finished.code}{': ' if errors else '.'}{errors[-2000:]}"
            )
        return json.loads(finished.output)


def new_token() -> str:
    """A token for a spec."""
    return uuid.uuid4().hex
