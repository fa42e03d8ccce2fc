"""Where the files of a job are, as its solver and its flags say."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from cos_runtime.config import Config

SOLVER = 'net_param { name: "n" } base_lr: 0.1 lr_policy: "fixed" max_iter: 20 '

Make = Callable[..., Config]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the configuration of a solver with these fields more, and of flags."""

    def configured(more: str, *flags: str) -> Config:
        path = tmp_path / "lenet_solver.v2.prototxt"
        path.write_text(SOLVER + more)
        return Config(None, ["-conf", str(path), *flags])

    return configured


def test_snapshots_have_the_solvers_name_where_no_prefix_is_given(make: Make, tmp_path: Path):
    assert make("").snapshot_prefix == f"{tmp_path}/lenet_solver.v2"
    assert make("snapshot: 10", "-model", "/out/m.caffemodel").snapshot_prefix == "/out/lenet_solver.v2"
    assert make("snapshot: 10", "-model", "s3://b/m.caffemodel").snapshot_prefix == "s3://b/lenet_solver.v2"
    assert make("", "-model", "/out/m.caffemodel").snapshot_prefix == ""


@pytest.mark.parametrize("folder", ["there", "there/", "new/"])
def test_in_a_folder_they_have_the_solvers_name_too(make: Make, tmp_path: Path, folder: str):
    (tmp_path / "there").mkdir()
    conf = make(f'snapshot_prefix: "{folder}"', "-best", "loss")
    prefix = f"{tmp_path}/{folder.rstrip('/')}/lenet_solver.v2"
    assert conf.snapshot_prefix == prefix
    assert (conf.checkpoints.prefix, conf.best_path) == (f"{prefix}_checkpoint", f"{prefix}_best.caffemodel")
    assert make('snapshot_prefix: "new"').snapshot_prefix == f"{tmp_path}/new"


def test_a_folder_may_be_elsewhere(make: Make):
    fsspec.filesystem("memory").pipe_file("/there/old.caffemodel", b"weights")
    for folder in ("there", "there/", "new/"):
        expected = f"memory://{folder.rstrip('/')}/lenet_solver.v2"
        assert make(f'snapshot_prefix: "memory://{folder}"').snapshot_prefix == expected
    assert make('snapshot_prefix: "memory://new"').snapshot_prefix == "memory://new"


def test_what_the_job_keeps_on_its_own_has_the_models_name(make: Make, tmp_path: Path):
    flags = ["-best", "loss", "-model", "m.caffemodel.h5"]
    for snapshots in ("", "snapshot: 10"):
        conf = make(snapshots, *flags)
        kept = (f"{tmp_path}/m_checkpoint", f"{tmp_path}/m_best.caffemodel")
        assert (conf.checkpoints.prefix, conf.best_path) == kept
    assert make('snapshot_prefix: "snap"', *flags).checkpoints.prefix == f"{tmp_path}/snap_checkpoint"
    assert make("", *flags, "-checkpoint_seconds", "0").checkpoints.prefix == ""


def test_weights_may_be_several_files(make: Make, tmp_path: Path):
    a, b, c = (f"{tmp_path}/{name}.caffemodel" for name in "abc")
    solver = 'weights: "a.caffemodel, b.caffemodel" weights: "c.caffemodel"'
    assert make(solver).snapshotModelFile == f"{a},{b},{c}"
    assert make(solver, "-weights", "c.caffemodel,/a.caffemodel").snapshotModelFile == f"{c},/a.caffemodel"
    assert make("").snapshotModelFile == ""
