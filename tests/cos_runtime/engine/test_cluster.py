"""The engine on a real standalone cluster: three workers, an executor each."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cos_runtime.main
from bootstrap.local_cluster import LocalCluster
from cos_runtime.caffe import weights
from tests.fixtures.cluster import run_on
from tests.fixtures.jobs import MakeJob

EXAMPLES = Path(__file__).parents[3] / "examples"
MAIN = Path(cos_runtime.main.__file__)
TRAIN_JOBS = Path(__file__).with_name("train_jobs.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=3, quick=True) as cluster:
        yield cluster


def lenet_job(folder: Path, data: Path, batch: int) -> list[str]:
    """LeNet on MNIST for 50 iterations, and the flags that train it."""
    folder.mkdir()
    net = (EXAMPLES / "mnist" / "lenet_train_test.prototxt").read_text()
    net = net.replace("data/mnist", f"{data}/mnist").replace("batch_size: 64", f"batch_size: {batch}")
    (folder / "lenet_train_test.prototxt").write_text(net)
    solver = (EXAMPLES / "mnist" / "lenet_solver.prototxt").read_text()
    solver = re.sub("(?m)^(snapshot|test|max_iter|display).*$", "", solver)
    (folder / "solver.prototxt").write_text(solver + "max_iter: 50 display: 10\n")
    return ["-conf", str(folder / "solver.prototxt"), "-train", "-model", str(folder / "model.caffemodel")]


@pytest.mark.long
def test_n_executors_follow_one_with_n_times_the_batch(cluster: LocalCluster, tmp_path: Path, mnist_lmdbs: Path):
    jobs = {ranks: lenet_job(tmp_path / str(ranks), mnist_lmdbs, 96 // ranks) for ranks in (1, 2, 3)}
    args = [[*flags, "-clusterSize", str(ranks)] for ranks, flags in jobs.items()]
    done = run_on(cluster, TRAIN_JOBS, json.dumps(args), timeout=240)
    assert done.code == 0, done.output + done.log
    one, *others = (weights.read(flags[-1]) for flags in jobs.values())
    for other in others:
        for layer, blobs in one.items():
            for ours, theirs in zip(other[layer], blobs, strict=True):
                assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max(), layer
    # Each rank logged where it was: in an executor of its own.
    ranks = {
        rank
        for log in cluster.executor_logs()
        for rank in re.findall(r"\[rank (\d) \S+\] .* rank \d of 3 on cpu, gloo", log.read_text())
    }
    assert ranks == {"0", "1", "2"}


def test_the_command_trains_tests_and_extracts_features(cluster: LocalCluster, make_job: MakeJob):
    job = make_job(max_iter=40, solver="test_iter: 5 test_interval: 20")
    output = job.file("features")
    flags = ["-train", "-test", "-features", "ip1,ip2", "-label", "label", "-output", output, "-clusterSize", "3"]
    done = run_on(cluster, MAIN, *job.args(*flags))
    assert done.code == 0, done.output + done.log
    rows = [json.loads(line) for part in sorted(Path(output).glob("*.json")) for line in part.read_text().splitlines()]
    assert [row["SampleID"] for row in rows] == [f"{index:08d}" for index in range(50)]
    assert list(rows[0]) == ["SampleID", "ip1", "ip2", "label"]
    assert [len(rows[0][name]) for name in ("ip1", "ip2", "label")] == [12, 4, 1]
    right = np.mean([np.argmax(row["ip2"]) == row["label"][0] for row in rows])
    tested = dict(line.split(": ") for line in Path(f"{output}.test.txt").read_text().splitlines())
    assert float(tested["accuracy"]) == pytest.approx(right, abs=1e-6)
    assert f"accuracy: {tested['accuracy']}" in done.output


def test_more_ranks_than_the_cluster_has_slots(cluster: LocalCluster, make_job: MakeJob):
    flags = ["-train", "-clusterSize", "4"]
    waiting = {"spark.scheduler.maxRegisteredResourcesWaitingTime": "1s"}
    done = run_on(cluster, MAIN, *make_job().args(*flags), conf=waiting)
    assert done.code == 2
    assert "4 ranks (-clusterSize 4 x -devices 1) need 4 task slots" in done.output
    assert "spark.cores.max=4" in done.output


@pytest.mark.long
def test_the_decks_program(cluster: LocalCluster, make_job: MakeJob):
    job = make_job(max_iter=40)
    flags = ["-features", "ip1", "-label", "label", "-output", job.file("classifier"), "-clusterSize", "2"]
    done = run_on(cluster, EXAMPLES / "one_program.py", *job.args(*flags))
    assert done.code == 0, done.output + done.log
    results = json.loads(Path(job.file("classifier.json")).read_text())
    assert results["tested_images"] == 50
    assert results["net_accuracy"] > 0.9
    assert results["classifier_accuracy"] > 0.5
    assert (Path(job.file("classifier")) / "metadata").is_dir()
