import os
import signal
import sys
from pathlib import Path

import pytest

from bootstrap.errors import LaunchError
from bootstrap.follow import follow
from bootstrap.host import Host
from bootstrap.jobs import places
from bootstrap.jobs.client import Jobs, new_token
from bootstrap.jobs.record import WORK, JobRecord, JobSpec, MasterTarget, Result
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from tests.fixtures.sshd import Server, Wire
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cos_home")

PROGRAM = """
import os, sys, time
from pathlib import Path
go, code, work = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
print("begins in", os.getcwd(), flush=True)
(work / "pid").write_text(str(os.getpid()))
while not go.exists():
    time.sleep(0.05)
print("error: no data in layer 3" if code else "goes well", flush=True)
(work / "result").write_text("42")
sys.exit(code)
"""


def spec(tmp_path: Path, code: int = 0, name: str = "waits") -> JobSpec:
    """A job that waits for the file `go` and exits with the code; on a Spark that it never starts."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return JobSpec(
        token=new_token(),
        name=name,
        kind="program",
        program=str(program),
        args=(str(tmp_path / "go"), str(code), WORK),
        target=MasterTarget(master="local[1]"),
        results=(Result(path=f"{WORK}/result", place="/here/result"),),
    )


def wait(jobs: Jobs, record: JobRecord) -> JobRecord:
    until(lambda: jobs.get(record.id).is_over, "the job's end")
    return jobs.get(record.id)


@pytest.mark.slow
def test_jobs_of_a_host(host: Host, tmp_path: Path) -> None:
    jobs = Jobs(host, str(tmp_path / "jobs"))
    asked = spec(tmp_path)
    first = jobs.submit(asked)
    assert jobs.submit(asked).id == first.id == "1", "a spec that is sent again is the same job"
    assert places.kept(first) == places.Places(job="1", names={"/here/result": ()})
    second = jobs.submit(spec(tmp_path, code=2, name="fails"))
    third = jobs.submit(spec(tmp_path, name="never runs"))

    log, pieces = jobs.log(first.id), list[bytes]()
    for piece in follow(host, log, lambda: len(pieces) > 0):
        pieces.append(piece)
    text = b"".join(pieces)
    work = tmp_path / "jobs" / "1" / "work"
    assert text == f"begins in {work}\n".encode()
    until(lambda: b"waiting for job 1" in Path(jobs.log(second.id)).read_bytes(), "its turn")
    assert [job.state for job in jobs.all()] == ["running", "queued", "queued"]
    cancelled = jobs.cancel(third.id)
    assert (cancelled.state, cancelled.exit_code, cancelled.started) == ("cancelled", 130, None)
    with pytest.raises(LaunchError, match="Job 3 is over already: it cancelled"):
        jobs.cancel(third.id)
    with pytest.raises(LaunchError, match="Job 1 is still running: `cos cancel 1` ends it"):
        jobs.retry(first)

    (tmp_path / "go").touch()
    ended = wait(jobs, second)
    assert (ended.state, ended.exit_code, ended.message) == ("failed", 2, "no data in layer 3")
    first, second = jobs.get("1"), jobs.get("2")
    assert first.state == "succeeded"
    assert first.ended is not None
    assert second.started is not None
    assert first.ended <= second.started, "one after the other"
    assert first.results[0].path == str(work / "result")
    assert host.files.read(first.results[0].path, 0) == b"42"
    assert host.files.read(log, 0).endswith(b"goes well\n")
    assert (jobs.find("fails").id, jobs.find(None).id) == ("2", "3")
    with pytest.raises(LaunchError, match="There is no job '7'"):
        jobs.get("7")
    with pytest.raises(LaunchError, match="There is no job 'lenet' on"):
        jobs.find("lenet")


@pytest.mark.slow
def test_a_job_outlives_its_connection_and_is_cancelled(sshd: Server, wire: Wire, tmp_path: Path) -> None:
    with Connection(sshd.address(port=wire.port)) as connection:
        jobs = Jobs(SshHost(connection, [sys.executable]), str(tmp_path / "jobs"))
        jobs.submit(spec(tmp_path))
        pid = tmp_path / "jobs" / "1" / "work" / "pid"
        until(pid.exists, "the program")
        wire.cut()
        connection.close()
        assert jobs.get("1").state == "running"
        ended = jobs.cancel("1")
        assert (ended.state, ended.exit_code) == ("cancelled", 130)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


@pytest.mark.slow
def test_a_killed_runner_is_a_failed_job_that_can_be_tried_again(host: Host, tmp_path: Path) -> None:
    jobs = Jobs(host, str(tmp_path / "jobs"))
    jobs.submit(spec(tmp_path))
    folder = tmp_path / "jobs" / "1"
    until((folder / "work" / "pid").exists, "the program")
    program = int((folder / "work" / "pid").read_text())
    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
    until(lambda: jobs.get("1").state == "failed", "the failure")
    assert "its process is gone" in jobs.get("1").message
    until(lambda: not Path(f"/proc/{program}").exists(), "the program to end")
    (tmp_path / "go").touch()
    again = wait(jobs, jobs.retry(jobs.get("1")))
    assert (again.id, again.retry_of, again.state) == ("2", "1", "succeeded")
    assert places.kept(again) == places.Places(job="2", names={"/here/result": ()})
    assert (folder / "work" / "result").read_text() == "42", "it does what it was to do in the first place"
