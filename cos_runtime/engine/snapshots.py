"""Snapshots on the driver: their names, and the rule that none is written over.

The ranks send snapshots over the line and the driver writes them, so that a local path means the machine on which
the job was started, whatever the cluster.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field

from cos_runtime import storage
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.errors import UserError

logger = logging.getLogger(__name__)

# Why a snapshot is made: on the job's own account, because the solver asks for it, as its validation was better than
# all before, or as training has ended.
CHECKPOINT, SNAPSHOT, BEST, FINAL = "checkpoint", "snapshot", "best", "final"


def model_path(prefix: str, iteration: int, file_format: int) -> str:
    """Where the weights of a snapshot go (Caffe's own naming)."""
    return f"{prefix}_iter_{iteration}.caffemodel{_suffix(file_format)}"


def state_path(prefix: str, iteration: int, file_format: int) -> str:
    """Where the solver's state of a snapshot goes."""
    return f"{prefix}_iter_{iteration}.solverstate{_suffix(file_format)}"


@dataclass(frozen=True)
class Saved:
    """The files of one snapshot.

    Attributes:
        model: the weights.
        state: the solver's state, None where only the weights are kept.
    """

    model: str
    state: str | None = None


@dataclass(frozen=True)
class Snapshots:
    """The files a training job writes.

    Attributes:
        solver: for ``snapshot``, ``snapshot_format``, ``snapshot_after_train`` and ``max_iter``.
        prefix: path or URL before ``_iter_N``; empty for no snapshots.
        model: path or URL of the final weights; empty for none.
        best: path or URL of the weights with the best validation; empty for none.
        checkpoint_prefix: path or URL before ``_iter_N`` of the job's own checkpoints; empty for none.
        kept: how many checkpoints stay, the newest.
    """

    solver: SolverParameter
    prefix: str
    model: str
    best: str = ""
    checkpoint_prefix: str = ""
    kept: int = 2
    _checkpoints: deque[Saved] = field(default_factory=deque)

    def refuse_existing(self, start: int, resumed_from: str = "", *, has_best: bool = False) -> None:
        """Raise a UserError if a file that the job would write from iteration ``start`` on is there already.

        Args:
            resumed_from: the solver state that the job goes on from; checkpoints of that run may be written over.
            has_best: whether that state has a best validation, whose weights may be written over by better ones.
        """
        if self.model and storage.exists(self.model):
            raise UserError(f"-model {self.model} exists: name another file, or remove it first")
        if self.best and not has_best and storage.exists(self.best):
            raise UserError(f"-best would write over {self.best}, of an earlier run: remove it, or change -model")
        self._refuse_snapshots(start)
        self._refuse_checkpoints(resumed_from)

    def _refuse_snapshots(self, start: int) -> None:
        iterations = self._iterations(start)
        # Many, so that to ask for each would take an object store minutes.
        there = storage.names(storage.parent(self.prefix)) if iterations else set()
        for iteration in iterations:
            for path in self._paths(iteration):
                if _name(path) in there:
                    raise UserError(
                        f"the snapshot {path} of an earlier run would be written over: resume from it with -snapshot, "
                        "remove it, or change snapshot_prefix"
                    )

    def _refuse_checkpoints(self, resumed_from: str) -> None:
        left = self._left_checkpoints()
        if left and not resumed_from.startswith(f"{self.checkpoint_prefix}_iter_"):
            raise UserError(
                f"{left[-1]} is a checkpoint of an earlier run that did not end: go on from it with -snapshot and "
                "-weights, or remove it"
            )

    def take_over_checkpoints(self) -> None:
        """Have the checkpoints of the run that is gone on with go as this run's do."""
        self._checkpoints.extend(
            Saved(state.replace(".solverstate", ".caffemodel"), state) for state in self._left_checkpoints()
        )

    def _left_checkpoints(self) -> list[str]:
        """The solver states of an earlier run's checkpoints, the oldest first."""
        if not self.checkpoint_prefix:
            return []
        folder, begin = storage.parent(self.checkpoint_prefix), f"{_name(self.checkpoint_prefix)}_iter_"
        iterations: dict[str, int] = {}
        for each in storage.names(folder):
            number, _, suffix = each.removeprefix(begin).partition(".")
            if each.startswith(begin) and number.isdecimal() and suffix in ("solverstate", "solverstate.h5"):
                iterations[f"{folder}/{each}"] = int(number)
        return sorted(iterations, key=iterations.__getitem__)

    def refuse_unwritable(self, start: int) -> None:
        """Raise a UserError if a local file from iteration ``start`` on cannot be made; the folders are made."""
        prefix = self.prefix if self._iterations(start) else ""
        for what, path in (
            ("-model", self.model),
            ("-best", self.best),
            ("snapshot_prefix", prefix),
            ("checkpoint", self.checkpoint_prefix),
        ):
            if path:
                storage.refuse_unwritable(path, what)

    def refuse_no_result(self, start: int) -> None:
        """Raise a UserError if a job that begins at iteration ``start`` would keep no weights."""
        if not (self.model or self.best or self._iterations(start)):
            raise UserError(
                "-model is missing: name the file for the trained weights, of which the solver keeps no snapshot"
            )

    def save(self, iteration: int, model: bytes, state: bytes, purpose: str) -> list[Saved]:
        """Write what the job keeps of this snapshot and return the paths.

        Raises:
            OSError: a file could not be written; those of earlier snapshots are as they were.
        """
        if purpose == CHECKPOINT:
            return [self._save_checkpoint(iteration, model, state)]
        if purpose == BEST:
            storage.write_bytes(self.best, model)
            return [Saved(self.best)]
        saved = []
        if self.prefix and (purpose == SNAPSHOT or self._has_final_snapshot(iteration)):
            saved.append(_write(self._paths(iteration), model, state))
        if purpose == FINAL and self.model:
            saved.append(Saved(self.model))
            storage.write_bytes(self.model, model)
        return saved

    def remove_checkpoints(self, kept: int = 0) -> None:
        """Remove the checkpoints of this run but the ``kept`` newest; one that stays all the same is warned of."""
        while len(self._checkpoints) > kept:
            old = self._checkpoints.popleft()
            try:
                # The state first: without it the weights are no checkpoint.
                for path in (str(old.state), old.model):
                    with contextlib.suppress(FileNotFoundError):
                        storage.remove(path)
            except Exception as error:  # noqa: BLE001 - whatever a store raises: the job has what it needs
                logger.warning("the checkpoint %s could not be removed: %s", old.model, error)

    def _save_checkpoint(self, iteration: int, model: bytes, state: bytes) -> Saved:
        file_format = self.solver.snapshot_format
        paths = (make(self.checkpoint_prefix, iteration, file_format) for make in (model_path, state_path))
        saved = _write((next(paths), next(paths)), model, state)
        if saved in self._checkpoints:  # a restarted job comes by here again
            self._checkpoints.remove(saved)
        self._checkpoints.append(saved)
        return saved

    def _has_final_snapshot(self, last: int) -> bool:
        interval = self.solver.snapshot
        return self.solver.snapshot_after_train and not (interval and last % interval == 0)

    def _iterations(self, start: int) -> list[int]:
        if not self.prefix:
            return []
        interval, last = self.solver.snapshot, self.solver.max_iter
        found = [i for i in range(interval, last + 1, interval) if i > start] if interval else []
        return [*found, last] if self._has_final_snapshot(last) else found

    def _paths(self, iteration: int) -> tuple[str, str]:
        file_format = self.solver.snapshot_format
        return model_path(self.prefix, iteration, file_format), state_path(self.prefix, iteration, file_format)


def _write(paths: tuple[str, str], model: bytes, state: bytes) -> Saved:
    """Write both files or none; the state comes last, so that one with a state is whole."""
    storage.write_bytes(paths[0], model)
    try:
        storage.write_bytes(paths[1], state)
    except OSError:
        with contextlib.suppress(OSError, UserError):  # where the place is out of reach, the first error tells more
            if not storage.exists(paths[1]):
                storage.remove(paths[0])
        raise
    return Saved(*paths)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _suffix(file_format: int) -> str:
    return ".h5" if file_format == SolverParameter.HDF5 else ""
