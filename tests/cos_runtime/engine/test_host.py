"""What a host must offer, looked at before the start."""

import os
import resource
import subprocess
import sys

import pytest

from cos_runtime.engine.host import check_clock, check_open_files, check_shared_memory
from cos_runtime.errors import UserError


def in_a_process_with(soft: int, hard: int, ranks: int) -> str:
    """What a process with these limits of open files says to the check, and its limit then."""
    script = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from cos_runtime.engine.host import check_open_files\n"
        f"check_open_files({ranks})\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_low_limit_of_open_files_is_raised_as_far_as_is_allowed():
    assert "(272, 1024)" in in_a_process_with(64, 1024, 2)


def test_a_limit_that_cannot_be_raised_is_named():
    assert "allows a process 500 open files and 100 ranks need 1056" in in_a_process_with(64, 500, 100)


def test_a_limit_that_is_high_enough_stays():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    check_open_files(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_shared_memory_that_is_missing_or_too_small_is_named(tmp_path):
    check_shared_memory(1, tmp_path / "missing")  # a rank alone shares none
    with pytest.raises(UserError, match="missing on .* has 0 MB free and 2 GPU ranks need 128 MB"):
        check_shared_memory(2, tmp_path / "missing")
    room = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(UserError, match=r"MB free and \d+ GPU ranks"):
        check_shared_memory((room >> 26) + 1_000, tmp_path)


def test_clocks_that_differ_are_named_with_the_host():
    check_clock("node7", 1000.0, 1059.0)
    with pytest.raises(UserError, match="clock of node7 is 61 s behind the driver's"):
        check_clock("node7", 1000.0, 1061.0)
    with pytest.raises(UserError, match="clock of node7 is 3600 s ahead of"):
        check_clock("node7", 4600.0, 1000.0)
