"""Where the files of a job are, as its solver and its flags say."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from cos_runtime.config import Config, parse_flags
from cos_runtime.errors import UserError

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


def test_a_net_beside_a_remote_solver_is_found_by_a_path_with_dots():
    files = fsspec.filesystem("memory")
    files.pipe_file(
        "/there/conf/solver.prototxt", SOLVER.replace('net_param { name: "n" }', 'net: "../n.net"').encode()
    )
    files.pipe_file("/there/n.net", b'name: "n"')
    conf = Config(None, ["-conf", "memory://there/conf/solver.prototxt"])
    assert conf.netParam.name == "n"


def test_a_blob_that_is_named_twice_is_one_feature(make: Make):
    assert make("", "-features", "ip1, ip2,ip1").features == ["ip1", "ip2"]


@pytest.mark.parametrize(("value", "is_on"), [(1, True), (True, True), ("TRUE", True), (0, False), ("false", False)])
def test_a_switch_in_a_mapping_is_on_by_any_true_value(tmp_path: Path, value: object, is_on: bool):
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER)
    assert Config(None, {"conf": path, "train": value}).isTraining is is_on


def test_a_switch_in_a_mapping_takes_no_other_word():
    with pytest.raises(UserError, match='-train is "yes": it is a switch, give true or false'):
        Config(None, {"conf": "solver.prototxt", "train": "yes"})


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("-timeout", "nan", "-timeout is nan: it must be 1 or more"),
        ("-timeout", "inf", "-timeout is inf: it must be 100000000 s or less"),
        ("-corrupt_share", "nan", "-corrupt_share is nan: it must be 0 or more"),
    ],
)
def test_numbers_that_are_no_limits(flag: str, value: str, sentence: str):
    with pytest.raises(UserError) as told:
        parse_flags([flag, value])
    assert str(told.value) == sentence
