"""Programs that end with us, however we end."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bootstrap import supervisor

Stream = int | IO[bytes] | None


class Supervised:
    """A program and all that it starts, in a session of its own under `bootstrap.supervisor`.

    Being in another session it does not hear the terminal's Ctrl-C: whoever started it ends it.

    Args:
        command: The program and its arguments.
        environment: Its whole environment.
        directory: A directory to remove where we die before we could; hold a shared `flock` on it while we live.
        stdout: As in `subprocess.Popen`.
        stderr: As in `subprocess.Popen`.
        grace: Seconds between asking it to end and killing it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        grace: float = 10.0,
    ) -> None:
        place = [] if directory is None else ["--directory", str(directory)]
        # -I and -S: neither the caller's PYTHONPATH nor site-packages has a say in a process that must not fail.
        wrapped = [sys.executable, "-I", "-S", supervisor.__file__, *place, "--grace", str(grace), "--", *command]
        self._grace = grace
        self._process = subprocess.Popen(
            wrapped,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    @property
    def stderr(self) -> IO[bytes] | None:
        """The reading end where `stderr=subprocess.PIPE` was asked for."""
        return self._process.stderr

    @property
    def pid(self) -> int:
        """The supervisor's process id, which is the session's id too."""
        return self._process.pid

    def poll(self) -> int | None:
        """The program's exit code (128 + n where signal n ended it), None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end and return the exit code; `subprocess.TimeoutExpired` after the seconds."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Kill the program and all that it started, with no chance to tidy up, and wait."""
        supervisor.signal_session(self.pid, signal.SIGKILL)
        self.stop()

    def ask_to_stop(self) -> None:
        """Ask the program and all that it started to end, without waiting."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        # A fork of ours may hold the pipe open without knowing: say it aloud too.
        self._process.terminate()

    def stop(self) -> None:
        """End the program and all that it started; nothing of it runs when this returns."""
        self.ask_to_stop()
        try:
            code = self._process.wait(self._grace + supervisor.KILL_SECONDS + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(supervisor.KILL_SECONDS)
        if code < 0:  # the supervisor was killed itself and could not do its work
            supervisor.signal_session(self.pid, signal.SIGKILL)
