"""Run one program, and let nothing of it outlive the process that asked for it.

This file is run as a script, by its path and with the standard library alone, as the leader of a session of its own.
Its standard input is a pipe whose other end the asking process holds: the kernel closes that end however the asking
process ends, `kill -9` included, and the end of file says that the session has to go. `bootstrap.processes` is the
other side of it.
"""

import argparse
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05
_STOP = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


def session_members(session: int) -> list[int]:
    """Processes of a session, without its leader and without zombies.

    A session and not a process group, because pyspark's daemon of Python workers makes a group of its own.
    """
    members = []
    for pid, sid, state in _processes():
        if sid == session and pid != session and state != "Z":
            members.append(pid)
    return members


def _processes() -> list[tuple[int, int, str]]:
    """Every process as (pid, session, state)."""
    if not Path("/proc/self/stat").exists():  # macOS: no session ids to be had; the process group comes close
        listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,state="], capture_output=True, text=True, check=False)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [(int(row[0]), int(row[1]), row[2][0]) for row in rows if len(row) == 3]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            # The second field is the program's name in brackets, and a name may hold blanks and brackets itself.
            state, _parent, _group, sid = stat.rpartition(")")[2].split()[:4]
            found.append((int(name), int(sid), state))
    return found


def signal_session(session: int, number: int) -> None:
    """Send a signal to every member of a session but its leader."""
    for pid in session_members(session):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _run(command: list[str], grace: float) -> int:
    """Run the command until it ends or the pipe closes, then end what is left of the session."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    # Handlers and not SIG_IGN: a program inherits ignored signals, and a JVM that does is deaf to them for life.
    for number in (signal.SIGCHLD, *_STOP):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        ready, _, _ = select.select([0, reader], [], [])
        if 0 in ready:  # nobody ever writes to it: this is its end
            break
        if _STOP & set(os.read(reader, 64)):
            break
    _end_session(child, grace)
    code = child.poll()
    if code is None:
        code = -signal.SIGKILL
    return code if code >= 0 else 128 - code


def _end_session(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """Ask the rest of our session to end, and kill what has not after the grace."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        signal_session(os.getpid(), number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            child.poll()
            if not session_members(os.getpid()):
                return
            time.sleep(_POLL_SECONDS)


def main() -> int:
    """Run the command given after `--`; returns its exit code, 128 + n where signal n ended it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="removed by the last of the processes that hold a lock on it")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds from asking to killing")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    held = None
    if options.directory:
        held = os.open(options.directory, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
    code = _run(options.command, options.grace)
    if held is not None:
        try:  # Each process holds a shared lock, so the exclusive one goes to whoever is left alone, the last one out.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return code
        shutil.rmtree(options.directory, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
