"""What a killed `up` leaves: here the files of the state; `tests/e2e/test_faults.py` kills one in the lab."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from bootstrap.clusters.interrupted import mend, others, wait_for_engine
from bootstrap.errors import FailedError

WHOLE, BEFORE = '{"version": 3, "checkpoint": {"latest": 2}}', '{"version": 3, "checkpoint": {"latest": 1}}'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The files of a stack as Pulumi's file backend lays them."""
    folder = tmp_path / ".pulumi/stacks/cos"
    folder.mkdir(parents=True)
    for name, text in (("dev.json", WHOLE), ("dev.json.bak", BEFORE), ("other.json", "")):
        (folder / name).write_text(text)
        (folder / f"{name}.attrs").write_text('{"user.content_type": "application/json"}')
    return tmp_path


def test_a_whole_state_is_left_alone(state: Path) -> None:
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert not mend(state, "dev")
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("left", ["", WHOLE[:20], None])
def test_a_state_that_is_cut_short_is_the_one_before(state: Path, left: str | None) -> None:
    file = state / ".pulumi/stacks/cos/dev.json"
    if left is None:
        file.unlink()
    else:
        file.write_text(left)
    assert mend(state, "dev")
    assert file.read_text() == BEFORE


def test_attributes_that_are_cut_short_go(state: Path) -> None:
    folder = state / ".pulumi/stacks/cos"
    (folder / "dev.json.attrs").write_text("")
    assert mend(state, "dev")
    assert (folder / "dev.json").read_text() == WHOLE
    assert not (folder / "dev.json.attrs").exists()
    assert (folder / "dev.json.bak.attrs").exists()


def test_without_a_backup_nothing_is_made_up(state: Path) -> None:
    assert not mend(state, "other")
    assert (state / ".pulumi/stacks/cos/other.json").read_text() == ""


@pytest.mark.parametrize("lost", [True, False])
def test_the_lock_of_a_lost_state_goes(state: Path, *, lost: bool) -> None:
    """That of a state which is there is Pulumi's to cancel."""
    lock = state / ".pulumi/locks/organization/cos/dev/0b1c.json"
    lock.parent.mkdir(parents=True)
    lock.write_text('{"pid": 1}')
    if lost:
        for path in (state / ".pulumi/stacks/cos").glob("dev.*"):
            path.unlink()
    assert not mend(state, "dev")
    assert lock.exists() is not lost


def locked(state: Path, pid: int, hostname: str = "") -> None:
    """The lock of a process, as Pulumi writes it."""
    lock = state / f".pulumi/locks/organization/cos/dev/{pid}.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps({"pid": pid, "username": "ada", "hostname": hostname or socket.gethostname()}))


def test_an_engine_that_outlives_its_cos_is_waited_for(state: Path, tmp_path: Path) -> None:
    engine = Path(shutil.copy(shutil.which("sleep") or "", tmp_path / "pulumi"))
    began = time.monotonic()
    with subprocess.Popen([engine, "2"]) as process, subprocess.Popen([engine, "60"]) as elsewhere:
        locked(state, process.pid)
        locked(state, elsewhere.pid, "another-laptop")
        with pytest.raises(FailedError, match=f"process {process.pid}.* works on dev after 0 s: wait until .* `kill"):
            wait_for_engine(state, "dev", seconds=0.0)
        wait_for_engine(state, "other", seconds=0.0)
        wait_for_engine(state, "dev")
        elsewhere.kill()
    assert 1.5 < time.monotonic() - began < 30.0


def test_whose_lock_it_is(tmp_path: Path) -> None:
    engine = Path(shutil.copy(shutil.which("sleep") or "", tmp_path / "pulumi"))

    def refusal(host: str, pid: int) -> str:
        return (
            "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete "
            "the lock file with `pulumi cancel`.\n"
            f"  s3://state/.pulumi/locks/organization/cos/dev/1.json: created by ada@{host} (pid {pid}) at 2026-01-01"
        )

    with subprocess.Popen([engine, "60"]) as process:
        here = socket.gethostname()
        assert others(refusal(here, process.pid)) == [f"ada@{here} (process {process.pid})"]
        process.kill()
        process.wait()
        assert others(refusal(here, process.pid)) == []
        assert others(refusal("another-laptop", process.pid)) == [f"ada@another-laptop (process {process.pid})"]
    assert others("error: [409] Conflict: Another update is currently in progress.") == ["Somebody"]


def test_the_number_of_an_engine_that_somebody_else_has_now(state: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        locked(state, process.pid)
        wait_for_engine(state, "dev", seconds=0.0)
        process.kill()
