"""A training job: what every rank is told, and what the driver keeps to itself."""

from __future__ import annotations

from dataclasses import dataclass

from cos_runtime.caffe.layers import Shape
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.engine.line import LineAddress
from cos_runtime.engine.snapshots import Snapshots
from cos_runtime.sources.base import DataSource


@dataclass(frozen=True)
class TrainJob:
    """A training job, pickled into Spark's tasks: plain data only.

    Attributes:
        solver: the solver, its paths resolved.
        net: the whole net, with the layers of both phases.
        source: the training records.
        validation: the records of interleaved validation; None trains without.
        ranks: how many ranks there are.
        connection: one of ``cos_runtime.engine.network.CONNECTIONS``.
        seed: of fillers, dropout, crops and mirrors; a rank's own follow from it.
        prefix: path or URL before ``_iter_N`` in the names of snapshots; empty for none.
        timeout: longest wait for the other ranks, in seconds.
        address: the driver's end of the line.
    """

    solver: SolverParameter
    net: NetParameter
    source: DataSource
    validation: DataSource | None
    train_shapes: dict[str, Shape]
    test_shapes: dict[str, Shape]
    ranks: int
    connection: str
    seed: int
    prefix: str
    timeout: float
    address: LineAddress

    @property
    def snapshot_interval(self) -> int:
        """Iterations between snapshots, 0 for none."""
        return self.solver.snapshot if self.prefix else 0

    @property
    def test_iter(self) -> int:
        """Batches of a validation pass, over all ranks together."""
        return self.solver.test_iter[0] if self.solver.test_iter else 0


@dataclass(frozen=True)
class Start:
    """What rank 0 begins with.

    Attributes:
        model: content of a weights file, empty for fresh ones.
        model_path: where it came from.
        state: content of a solver state file, empty for none.
        state_path: where it came from.
    """

    model: bytes = b""
    model_path: str = ""
    state: bytes = b""
    state_path: str = ""


@dataclass(frozen=True)
class TrainingPlan:
    """A training job that can start.

    Attributes:
        start: the files it begins with.
        iteration: where it begins.
        snapshots: the files it will write.
        loss_weights: of the TRAIN net's losses, by top blob.
    """

    start: Start
    iteration: int
    snapshots: Snapshots
    loss_weights: dict[str, float]
