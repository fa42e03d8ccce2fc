"""Snapshots on the driver: their names, and the rule that none is written over.

The ranks send snapshots over the line and the driver writes them, so that a local path means the machine on which
the job was started, whatever the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from cos_runtime import storage
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.errors import UserError


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
    """

    solver: SolverParameter
    prefix: str
    model: str

    def refuse_existing(self, start: int) -> None:
        """Raise a UserError if a file that the job would write from iteration ``start`` on is there already."""
        if self.model and storage.exists(self.model):
            raise UserError(f"-model {self.model} exists: name another file, or remove it first")
        for iteration in self._iterations(start):
            for path in self._paths(iteration):
                if storage.exists(path):
                    raise UserError(
                        f"the snapshot {path} of an earlier run would be written over: resume from it with -snapshot, "
                        "remove it, or change snapshot_prefix"
                    )

    def save(self, iteration: int, model: bytes, state: bytes, *, is_final: bool) -> list[Saved]:
        """Write what the job keeps of this snapshot and return the paths."""
        saved = []
        if self.prefix and (not is_final or self._has_final_snapshot()):
            saved.append(Saved(*self._paths(iteration)))
            storage.write_bytes(saved[-1].model, model)
            storage.write_bytes(str(saved[-1].state), state)
        if is_final and self.model:
            saved.append(Saved(self.model))
            storage.write_bytes(self.model, model)
        return saved

    def _has_final_snapshot(self) -> bool:
        interval = self.solver.snapshot
        return self.solver.snapshot_after_train and not (interval and self.solver.max_iter % interval == 0)

    def _iterations(self, start: int) -> list[int]:
        if not self.prefix:
            return []
        interval, last = self.solver.snapshot, self.solver.max_iter
        found = [i for i in range(interval, last + 1, interval) if i > start] if interval else []
        return [*found, last] if self._has_final_snapshot() else found

    def _paths(self, iteration: int) -> tuple[str, str]:
        file_format = self.solver.snapshot_format
        return model_path(self.prefix, iteration, file_format), state_path(self.prefix, iteration, file_format)


def _suffix(file_format: int) -> str:
    return ".h5" if file_format == SolverParameter.HDF5 else ""
