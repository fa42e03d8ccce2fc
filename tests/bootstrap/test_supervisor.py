import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bootstrap.processes import Supervised
from tests.fixtures.waiting import until

IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)
LEAVES_ITS_GROUP = """
import subprocess, time
child = subprocess.Popen(["sleep", "60"], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


def supervised(*command: str, grace: float = 10.0, directory: Path | None = None) -> tuple[Supervised, int]:
    """The program, and where its output can be read."""
    reader, writer = os.pipe()
    process = Supervised(command, environment=os.environ, stdout=writer, grace=grace, directory=directory)
    os.close(writer)
    return process, reader


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(("code", "expected"), [("exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_comes_through(code: str, expected: int) -> None:
    process, reader = supervised(*python(code))
    os.close(reader)
    assert process.wait(15) == expected
    process.stop()


def test_who_ignores_the_request_is_killed_after_the_grace() -> None:
    process, reader = supervised(*python(IGNORES_TERM), grace=0.5)
    assert os.read(reader, 2) == b"up"
    started = time.monotonic()
    process.stop()
    assert process.poll() == 128 + signal.SIGKILL
    assert 0.5 <= time.monotonic() - started < 10
    os.close(reader)


def test_nothing_of_the_session_survives_its_program() -> None:
    process, reader = supervised(*python(LEAVES_ITS_GROUP))
    grandchild = int(os.read(reader, 32))
    process.kill()
    assert gone(grandchild)
    os.close(reader)


def test_a_killed_supervisor_does_not_save_its_program() -> None:
    process, reader = supervised(*python(LEAVES_ITS_GROUP))
    grandchild = int(os.read(reader, 32))
    os.kill(process.pid, signal.SIGKILL)
    process.stop()
    until(lambda: gone(grandchild), "the program to die")
    os.close(reader)


def test_the_last_one_out_removes_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    asking = f"""
import os, time
from pathlib import Path
from bootstrap.processes import Supervised
directory = Path({str(directory)!r})
each = [Supervised(["sleep", "60"], environment=os.environ, directory=directory) for _ in range(2)]
time.sleep(0.5)
each[0].stop()
print(directory.exists(), flush=True)
time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(python(asking), env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "True\n"  # the second one still holds it
        parent.kill()
    until(lambda: not directory.exists(), "the directory to go")
