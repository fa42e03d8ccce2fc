"""LeNet on MNIST over Spark, from a snapshot of Caffe's on: what one reads in Caffe's own files comes out again."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cos_runtime.api import CaffeOnSpark, Config, DataSource
from cos_runtime.caffe import solverstate, weights
from tests.cos_runtime.caffe.reference_cases import error, folder
from tests.cos_runtime.engine.test_training import metrics
from tests.fixtures.jobs import JobFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lenet(pytestconfig: pytest.Config) -> Path:
    return folder(pytestconfig, "lenet")


@pytest.fixture
def job(lenet: Path, mnist_lmdbs: Path, tmp_path: Path) -> JobFolder:
    """Caffe's files in a folder of their own, with the LMDBs they name."""
    for file in lenet.iterdir():
        shutil.copy(file, tmp_path)
    for name in ("mnist_train_lmdb", "mnist_test_lmdb"):
        (tmp_path / name).symlink_to(mnist_lmdbs / name)
    net = tmp_path / "lenet_net.prototxt"
    # Two ranks with half a batch each see the records of Caffe's one.
    net.write_text(net.read_text().replace("batch_size: 64", "batch_size: 32"))
    return JobFolder(tmp_path)


def test_two_ranks_go_on_as_caffes_own_run(spark, job: JobFolder, lenet: Path):
    solver = Path(job.file("lenet_solver.prototxt"))
    text = solver.read_text().replace("max_iter: 2000", "max_iter: 1020").replace("display: 100", "display: 1")
    solver.write_text(text.replace('"lenet"', '"resumed"'))
    start = [job.file(f"lenet_iter_1000.{kind}") for kind in ("solverstate", "caffemodel")]
    flags = ["-conf", str(solver), "-train", "-clusterSize", "2", "-snapshot", start[0], "-weights", start[1]]
    conf = Config(spark, [*flags, "-model", job.file("model.caffemodel")])
    CaffeOnSpark(spark).train(DataSource.getSource(conf, True))

    expected = np.loadtxt(lenet / "resumed_loss.txt")
    *steps, last = metrics(job, "train")
    assert [step["iteration"] for step in steps] == expected[:, 0].tolist()
    assert (last["iteration"], last["lr"], last["outputs"]) == (1020, None, {})
    # The loss of each step, which Caffe's log gives with six digits.
    assert [step["outputs"]["loss"] for step in steps] == pytest.approx(expected[:, 1].tolist(), rel=1e-3)
    theirs = weights.read(str(lenet / "resumed_iter_1020.caffemodel.h5"))
    for path in ("model.caffemodel", "resumed_iter_1020.caffemodel"):
        ours = weights.read(job.file(path))
        assert max(error(ours[name][i], blob) for name, blobs in theirs.items() for i, blob in enumerate(blobs)) <= 1e-4
    state = solverstate.read(job.file("resumed_iter_1020.solverstate"))
    their_state = solverstate.read(str(lenet / "resumed_iter_1020.solverstate.h5"))
    assert (state.iteration, state.current_step) == (their_state.iteration, their_state.current_step)
    assert max(error(*pair) for pair in zip(state.history, their_state.history, strict=True)) <= 1e-4


def test_caffes_model_is_tested_and_gives_its_features(spark, job: JobFolder, lenet: Path):
    theirs = np.load(lenet / "lenet_iter_1000_test.npz", allow_pickle=False)
    flags = ["-conf", job.file("lenet_solver.prototxt"), "-model", job.file("lenet_iter_1000.caffemodel")]
    conf = Config(spark, [*flags, "-test", "-features", "ip1,ip2"])
    cos, source = CaffeOnSpark(spark), DataSource.getSource(conf, False)
    assert cos.test(source)["accuracy"][0] * 10_000 == pytest.approx(int(theirs["correct_of_10000"]), abs=0.01)
    rows = cos.features(source).limit(200).collect()
    assert [row.SampleID for row in rows] == [f"{index:08d}" for index in range(200)]
    for name in ("ip1", "ip2"):
        ours = np.array([row[name] for row in rows], np.float32)
        assert error(ours, theirs[name].reshape(ours.shape)) <= 1e-5, name
