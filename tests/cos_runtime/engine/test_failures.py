"""Ranks that fail, on a real cluster: who, where and why is known at once, and nothing is left of them."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cos_runtime.main
from bootstrap.local_cluster import LocalCluster
from bootstrap.submit import submit_command, submit_environment
from tests.cos_runtime.engine.test_training import metrics
from tests.fixtures.cluster import run_on
from tests.fixtures.jobs import JobFolder, MakeJob
from tests.fixtures.waiting import until

MAIN = Path(cos_runtime.main.__file__)
HARMED_JOBS = Path(__file__).with_name("harmed_jobs.py")
SOURCE = "tests.cos_runtime.engine.harmed_source.Marked"
# Longest way of a cause from a rank to the driver's exception, and the limit that `stop` is given.
PROMPT, LIMIT = 2.0, 20.0

# One application for all the harm: the first of these tests waits for it.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, quick=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobFolder]:
    make_job = MakeJob(tmp_path_factory.mktemp("harmed"))
    solver = "display: 10"
    return {
        name: make_job(name, max_iter=1_000_000, source_class=SOURCE, solver=solver)
        for name in ("raise", "kill", "stop", "hang", "cancel", "withdraw", "interrupt")
    }


@pytest.fixture(scope="module")
def outcomes(cluster: LocalCluster, jobs: dict[str, JobFolder]) -> dict[str, dict]:
    """What came of each harm: the error, the seconds from the harm to it, the ranks that live on."""
    limit, often = ["-timeout", str(LIMIT)], ["-checkpoint_iterations", "10"]
    own = {"stop": limit, "hang": limit, "cancel": often, "withdraw": often}
    flags = ["-train", "-clusterSize", "2", "-max_restarts", "0"]
    args = {
        name: job.args(*flags, *own.get(name, []), model="model.caffemodel")
        for name, job in jobs.items()
        if name != "interrupt"
    }
    done = run_on(cluster, HARMED_JOBS, json.dumps(args), timeout=280)
    assert done.code == 0, done.output + done.log
    return json.loads(done.output.splitlines()[-1])


def test_a_rank_that_raises_is_named_with_host_and_cause_at_once(outcomes: dict[str, dict]):
    found = outcomes["raise"]
    assert found["error"].startswith(
        f"RankError: rank 1 on {socket.gethostname()}: ValueError: the records of this rank are cursed"
    )
    assert found["seconds"] < PROMPT


def test_a_rank_that_is_killed_is_named_at_once(outcomes: dict[str, dict]):
    found = outcomes["kill"]
    assert f"rank 1 on {socket.gethostname()} ended without a word: it was killed" in found["error"]
    assert found["seconds"] < PROMPT


def test_a_silent_rank_is_named_when_the_time_limit_ends(outcomes: dict[str, dict]):
    found = outcomes["stop"]
    assert f"rank 1 on {socket.gethostname()} said nothing for {LIMIT:g} s" in found["error"]
    assert LIMIT - 1.5 < found["seconds"] < LIMIT + PROMPT


def test_of_ranks_that_stand_still_the_one_that_the_others_wait_for_is_named(outcomes: dict[str, dict]):
    found = outcomes["hang"]
    assert f"rank 1 on {socket.gethostname()}" in found["error"]
    assert "rank 0" not in found["error"]
    assert LIMIT - 1.5 < found["seconds"] < LIMIT + PROMPT


@pytest.mark.parametrize("way", ["cancel", "withdraw"])  # Spark's jobs; what CaffeOnSpark has running
def test_a_job_cancelled_from_another_thread_says_how_to_go_on(
    outcomes: dict[str, dict], jobs: dict[str, JobFolder], way: str
):
    assert outcomes[way]["error"].startswith("JobCancelled")
    assert outcomes[way]["seconds"] < 2 * PROMPT
    assert_says_how_to_go_on(metrics(jobs[way], "failed")[-1]["error"])


@pytest.mark.parametrize("harm", ["raise", "kill", "stop", "hang", "cancel", "withdraw"])
def test_no_rank_and_no_file_is_left(outcomes: dict[str, dict], cluster: LocalCluster, harm: str):
    assert outcomes[harm]["left"] == []
    scratch = [path.name for path in cluster.directory.glob("worker-*/local/*")]
    assert [name for name in scratch if not name.startswith(("spark-", "blockmgr-"))] == []


def test_ctrl_c_stops_the_ranks_and_says_how_to_go_on(cluster: LocalCluster, jobs: dict[str, JobFolder]):
    job = jobs["interrupt"]
    args = job.args("-train", "-clusterSize", "2", "-checkpoint_iterations", "10")
    options = cluster.submit_options()
    command = submit_command(MAIN, args, options["master"], properties_file=options["properties_file"])
    process = subprocess.Popen(
        command,
        env=submit_environment(options["master"], options["environment"]),
        stdout=subprocess.PIPE,  # of the script, its stderr included
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        made = "*_checkpoint_iter_*.solverstate"
        until(lambda: list(job.path.glob(made)) or process.poll() is not None, "a checkpoint", 180)
        assert process.poll() is None, process.communicate()[0]
        os.killpg(process.pid, signal.SIGINT)  # to the JVM too, as a terminal does
        log, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, log
    assert "Traceback" not in log
    assert_says_how_to_go_on(log)
    ranks = [int(Path(job.file(f"rank{rank}.pid")).read_text()) for rank in range(2)]
    until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), "the ranks to end", 30)


def assert_says_how_to_go_on(text: str) -> None:
    found = re.search(r"training was stopped at iteration \d+: go on with -snapshot (\S+) -weights (\S+)", text)
    assert found, text
    assert all(Path(path).exists() for path in found.groups())
