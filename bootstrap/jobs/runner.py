"""Runs one job to its end, whatever becomes of whoever asked for it: ``python -m bootstrap.jobs.runner DIRECTORY``.

systemd starts it, or `bootstrap.jobs.start`. It waits until no earlier job runs, runs the job by spark-submit, and
writes its state into its record. SIGTERM cancels the job.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bootstrap.errors import LaunchError
from bootstrap.jobs.record import LocalTarget, now
from bootstrap.jobs.store import JobStore
from bootstrap.local_cluster import LocalCluster
from bootstrap.submit import INTERRUPTED, submit

RUNTIME = "cos_runtime.main"

_TURN_SECONDS = 0.5
_USER_ERROR = 2
_TAIL_BYTES = 64 * 1024


class Runner:
    """Takes one job from `queued` to its end.

    Args:
        store: Where the job is.
        job: Its number.
    """

    def __init__(self, store: JobStore, job: str) -> None:
        self._store = store
        self._record = store.read(job)
        self._folder = store.folder(job)

    def run(self) -> int:
        """Run the job and return its exit code."""
        self._store.hold(self._record.id)
        self._record = self._store.read(self._record.id)
        if self._record.is_over:  # it was cancelled before there was anybody to tell
            return INTERRUPTED
        code, message = _USER_ERROR, ""
        try:
            self._wait_for_turn()
            self._note(state="running", started=now())
            with (self._folder / "log").open("ab", buffering=0) as log:
                code = self._submit(log)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except LaunchError as error:
            message = str(error).partition("\n")[0]
            self._say(f"cos: {error}")
        finally:
            # A bug of ours ends the job as failed too; its trace is where our stderr goes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._end(code, message)
        return code

    def _wait_for_turn(self) -> None:
        told = None
        while (earlier := self._store.before(self._record.id)) is not None:
            if earlier != told:
                self._say(f"cos: waiting for job {earlier} to end")
                told = earlier
            time.sleep(_TURN_SECONDS)

    def _submit(self, log: BinaryIO) -> int:
        record = self._record
        os.chdir(record.folder)
        own = {"TERM": "dumb", **self._python_path()}  # a log is no terminal, whoever started us from one
        with contextlib.ExitStack() as stack:
            target = self._target(stack)
            return submit(
                Path(record.program) if record.program else runtime_script(),
                record.args,
                conf=record.conf,
                py_files=[*self._code()],
                stdout=log,
                stderr=log,
                **{**target, "environment": {**target.get("environment", {}), **own}},
            )

    def _target(self, stack: contextlib.ExitStack) -> Mapping[str, Any]:
        """Keyword arguments of `submit`; a cluster of the job's own ends with the stack."""
        target = self._record.target
        if isinstance(target, LocalTarget):
            workers = f"{target.workers} worker{'s' * (target.workers > 1)}"
            self._say(f"cos: starting a Spark cluster of {workers} on this machine")
            cluster = LocalCluster(target.workers, cores=target.cores, memory=target.memory, quick=target.quick)
            stack.enter_context(cluster)
            self._note(web_url=cluster.web_url)
            return cluster.submit_options()
        properties = target.properties_file
        return {"master": target.master, "properties_file": Path(properties) if properties else None}

    def _code(self) -> Iterator[Path]:
        """The job's own code as executors take it: a package goes as an archive."""
        for index, given in enumerate(self._record.code):
            path = Path(given)
            if path.is_dir():
                archive = self._folder / f"code-{index}"
                yield Path(shutil.make_archive(str(archive), "zip", path.parent, path.name))
            else:
                yield path

    def _python_path(self) -> Mapping[str, str]:
        """The job's own code where the driver finds it."""
        folders = [str(Path(path).parent) for path in self._record.code]
        paths = [*dict.fromkeys(folders), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths)} if folders else {}

    def _end(self, code: int, message: str) -> None:
        state = "succeeded" if code == 0 else "cancelled" if code == INTERRUPTED else "failed"
        if state == "failed" and not message:
            message = why(self._folder / "log", code)
        self._note(state=state, ended=now(), exit_code=code, message=message, web_url="")

    def _note(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._store.write(self._record)

    def _say(self, text: str) -> None:
        with (self._folder / "log").open("a") as log:
            log.write(f"{text}\n")


def runtime_script() -> Path:
    """The script that spark-submit runs where no program is named.

    Raises:
        LaunchError: The runtime is not installed.
    """
    try:
        spec = importlib.util.find_spec(RUNTIME)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise LaunchError("The runtime, cos_runtime, is not installed for this Python: install `cos[runtime]`.")
    return Path(spec.origin)


def why(log: Path, code: int) -> str:
    """Why a job failed, by its log: the runtime's own sentence, where it has one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else f"it ended with exit code {code}: its log tells more"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the job of the directory that is the one argument."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    folder = Path(sys.argv[1])
    return Runner(JobStore(folder.parent), folder.name).run()


if __name__ == "__main__":
    sys.exit(main())
