"""Training that loses a rank goes on by itself, to the weights of an undisturbed run, on real executors."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bootstrap.local_cluster import LocalCluster
from cos_runtime.caffe import weights
from tests.fixtures.cluster import run_on
from tests.fixtures.jobs import JobFolder, MakeJob
from tests.fixtures.training import BATCH_NORM, assert_same, metrics

TRAIN_JOBS = Path(__file__).with_name("train_jobs.py")
SOURCE = "tests.cos_runtime.engine.disturbed_source.Disturbed"
# With a batch of 8, three ranks and 120 records, each rank has 40 and begins its five batches at rank + 24 i.
RECORDS, RANKS, ITERATIONS, ROUND = 120, 3, 40, 5
# Dropout, mirrors, and layers with a memory of their own: whatever a new start could get wrong.
RANDOM = {"extra": BATCH_NORM, "transform": "mirror: true", "records": RECORDS, "source_class": SOURCE}
# The decommissioned executor stays for its running task; the next job needs a new one.
CONF = {"spark.decommission.enabled": "true", "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=RANKS, quick=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    return MakeJob(tmp_path_factory.mktemp("recovery"))


def at(rank: int, iteration: int, what: str) -> str:
    """A disturbance of a rank as it decodes the batch of an iteration, counted from the start of its process."""
    rounds, batch = divmod(iteration, ROUND)
    return f"{rank + 24 * batch}:{rounds + 1}:{what}"


def disturbed(make: MakeJob, name: str, *lines: str, **fields: object) -> JobFolder:
    job = make(name, **{"max_iter": ITERATIONS, **RANDOM, **fields})
    Path(job.file("disturbances")).write_text("\n".join(lines))
    return job


def train_all(cluster: LocalCluster, jobs: dict[str, tuple[JobFolder, list[str]]]) -> None:
    flags = ["-train", "-clusterSize", str(RANKS), "-checkpoint_iterations", "4"]
    args = [job.args(*flags, *more) for job, more in jobs.values()]
    done = run_on(cluster, TRAIN_JOBS, json.dumps(args), timeout=500, conf=CONF)
    assert done.code == 0, done.output + done.log


def weights_of(job: JobFolder) -> dict[str, list[np.ndarray]]:
    return weights.read(job.file("model.caffemodel"))


@pytest.fixture(scope="module")
def jobs(cluster: LocalCluster, make: MakeJob) -> dict[str, JobFolder]:
    """The same training undisturbed and disturbed in each way, one after the other in one application."""
    validation = "test_iter: 3 test_interval: 10"
    jobs = {
        "whole": (disturbed(make, "whole", solver=validation), []),
        "kill": (disturbed(make, "kill", at(1, 16, "kill"), solver=validation), []),
        "kill-executor": (disturbed(make, "kill-executor", at(0, 21, "kill-executor"), solver=validation), []),
        "leave": (disturbed(make, "leave", at(2, 18, "leave"), solver=validation), ["-checkpoint_iterations", "0"]),
        "decommission": (
            disturbed(make, "decommission", at(1, 3, "decommission"), max_iter=1000),
            ["-checkpoint_iterations", "0"],
        ),
    }
    train_all(cluster, jobs)
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize("name", ["kill", "kill-executor", "leave"])
def test_a_lost_rank_costs_nothing_but_time(jobs: dict[str, JobFolder], name: str):
    assert_same(weights_of(jobs[name]), weights_of(jobs["whole"]), 0)
    failures = [line["error"] for line in metrics(jobs[name], "failed")]
    assert len(failures) == 1
    assert "new start 1 of 3 at most, from iteration " in failures[0]
    starts = [line["iteration"] for line in metrics(jobs[name], "started")]
    assert starts[0] == 0
    assert starts[1] > 0
    assert not list(jobs[name].path.glob("*checkpoint*"))


def test_validation_goes_on_too(jobs: dict[str, JobFolder]):
    passes = {
        name: {line["iteration"]: line["outputs"] for line in metrics(jobs[name], "test")} for name in ("whole", "kill")
    }
    assert passes["kill"] == passes["whole"]
    assert list(passes["whole"]) == [0, 10, 20, 30, 40]


def test_a_rank_that_is_told_to_leave_makes_a_checkpoint_first(jobs: dict[str, JobFolder]):
    # It makes none otherwise: the first one is due after a minute.
    assert "LeaveError: it was told to end (SIGTERM)" in metrics(jobs["leave"], "failed")[0]["error"]
    saved = [line["iteration"] for line in metrics(jobs["leave"], "snapshot") if "checkpoint" in line["path"]]
    assert saved == [metrics(jobs["leave"], "started")[1]["iteration"]]


def test_decommissioning_makes_a_checkpoint_at_once(jobs: dict[str, JobFolder]):
    saved = [line["iteration"] for line in metrics(jobs["decommission"], "snapshot") if "checkpoint" in line["path"]]
    assert len(saved) == 1
    assert 0 < saved[0] < 1000


@pytest.mark.long
def test_a_kill_at_any_moment(cluster: LocalCluster, make: MakeJob):
    # Ten of them, two a job.
    moments = random.Random(7)
    jobs = {"whole": (disturbed(make, "undisturbed"), [])}
    for number in range(5):
        # Where the second moment comes after the new start, it is counted from there.
        lines = [at(moments.randrange(RANKS), moments.randrange(ITERATIONS), "kill") for _ in range(2)]
        jobs[f"killed {number}"] = (disturbed(make, f"killed{number}", *lines), [])
    train_all(cluster, jobs)
    whole, *others = (job for job, _ in jobs.values())
    for job in others:
        assert 1 <= len(metrics(job, "failed")) <= len(list(job.path.glob("did-*")))
        assert_same(weights_of(job), weights_of(whole), 0)
