"""What a job writes: what of an earlier run is in its way, and what goes at the end."""

import logging
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine.snapshots import CHECKPOINT, Snapshots
from cos_runtime.errors import UserError


class Watched(MemoryFileSystem):
    """Counts what is asked of it, and lets nothing be removed."""

    protocol = "watched"
    asked = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("watched://", "memory://"))

    def info(self, path, **kwargs):
        Watched.asked += 1
        return super().info(path, **kwargs)

    def ls(self, path, *args, **kwargs):
        Watched.asked += 1
        return super().ls(path, *args, **kwargs)

    def exists(self, path, **kwargs):
        Watched.asked += 1
        return super().exists(path, **kwargs)

    def rm_file(self, path):
        raise PermissionError("Access Denied: DeleteObject")


fsspec.register_implementation("watched", Watched, clobber=True)


@pytest.mark.parametrize("folder", ["run[1]", "a?b", "a*b", "plain"])
def test_checkpoints_of_an_earlier_run_are_seen_in_any_folder(tmp_path: Path, folder: str):
    (tmp_path / folder).mkdir()
    of_run = Snapshots(SolverParameter(max_iter=10), "", "", checkpoint_prefix=f"{tmp_path}/{folder}/m_checkpoint")
    of_run.refuse_existing(0)
    left = of_run.save(4, b"m", b"s", CHECKPOINT)[0]
    with pytest.raises(UserError) as told:
        of_run.refuse_existing(0)
    assert str(told.value).startswith(f"{left.state} is a checkpoint of an earlier run")
    of_run.refuse_existing(4, str(left.state))


def test_many_snapshots_are_looked_for_at_once():
    solver = SolverParameter(max_iter=450_000, snapshot=100)
    snapshots = Snapshots(solver, "watched://b/snap", "watched://b/m", checkpoint_prefix="watched://b/m_checkpoint")
    Watched.asked = 0
    snapshots.refuse_existing(0)
    assert Watched.asked < 10
    fsspec.filesystem("watched").pipe_file("/b/snap_iter_449900.solverstate", b"dear")
    with pytest.raises(UserError, match="the snapshot watched://b/snap_iter_449900.solverstate of an earlier run"):
        snapshots.refuse_existing(0)
    snapshots.refuse_existing(449_900)


def test_a_checkpoint_that_cannot_be_removed_is_warned_of(caplog: pytest.LogCaptureFixture):
    snapshots = Snapshots(SolverParameter(), "", "", checkpoint_prefix="watched://c/m_checkpoint")
    snapshots.save(4, b"m", b"s", CHECKPOINT)
    with caplog.at_level(logging.WARNING):
        snapshots.remove_checkpoints()
    assert "the checkpoint watched://c/m_checkpoint_iter_4.caffemodel could not be removed" in caplog.text
    # Both stay: a state without its weights is good for nothing.
    assert len(fsspec.filesystem("watched").ls("/c")) == 2


def test_the_best_weights_of_an_earlier_run_stay(tmp_path: Path):
    best = tmp_path / "m_best.caffemodel"
    best.write_bytes(b"precious")
    snapshots = Snapshots(SolverParameter(max_iter=20), "", "", str(best))
    with pytest.raises(UserError, match="-best would write over"):
        snapshots.refuse_existing(10, "state")
    snapshots.refuse_existing(10, "state", has_best=True)


def test_the_checkpoints_of_the_run_that_is_gone_on_with_go_at_the_end(tmp_path: Path):
    for iteration in (8, 16, 120):
        for kind in ("caffemodel", "solverstate"):
            (tmp_path / f"model_checkpoint_iter_{iteration}.{kind}").write_text("old")
    (tmp_path / "model_checkpoint_iter_8.solverstate.txt.bak").write_text("mine")
    snapshots = Snapshots(SolverParameter(), "", "", checkpoint_prefix=str(tmp_path / "model_checkpoint"))
    snapshots.refuse_existing(120, str(tmp_path / "model_checkpoint_iter_120.solverstate"))
    snapshots.take_over_checkpoints()
    snapshots.save(128, b"model", b"state", CHECKPOINT)
    snapshots.remove_checkpoints(2)
    left = {path.name for path in tmp_path.glob("*.solverstate")}
    assert left == {"model_checkpoint_iter_120.solverstate", "model_checkpoint_iter_128.solverstate"}
    snapshots.remove_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["model_checkpoint_iter_8.solverstate.txt.bak"]
