"""A training job: what every rank is told, and what the driver keeps to itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from cos_runtime.caffe.layers import Layer, Shape
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, NetState, SolverParameter
from cos_runtime.engine.best import Aim
from cos_runtime.engine.line import NOWHERE, LineAddress
from cos_runtime.engine.numerics import Numerics
from cos_runtime.engine.snapshots import CHECKPOINT, Snapshots, model_path
from cos_runtime.sources.base import DataSource


@dataclass(frozen=True)
class Checkpoints:
    """Snapshots that the job makes on its own, to go on from after a failure.

    Attributes:
        prefix: path or URL before ``_iter_N`` in their names; empty for none.
        seconds: between two of them, 0 for none by time.
        iterations: between two of them, 0 for none by iterations.
        kept: the newest ones that stay.
    """

    prefix: str = ""
    seconds: float = 0.0
    iterations: int = 0
    kept: int = 2

    def is_due_at(self, iteration: int) -> bool:
        """Whether one is due by iterations."""
        return bool(self.prefix and self.iterations) and iteration % self.iterations == 0


@dataclass(frozen=True)
class TrainJob:
    """A training job, pickled into Spark's tasks: plain data only.

    Attributes:
        solver: the solver, its paths resolved.
        net: the whole net, with the layers of both phases.
        source: the training records.
        validations: the records of interleaved validation, a source a TEST net; none trains without.
        train_shapes: of the tops of ``source``.
        test_shapes: of the tops of each of ``validations``.
        train_state: level and stages of the TRAIN net.
        test_states: those of each TEST net.
        ranks: how many ranks there are.
        connection: one of ``cos_runtime.engine.network.CONNECTIONS``.
        seed: of fillers, dropout, crops and mirrors; a rank's own follow from it.
        prefix: path or URL before ``_iter_N`` in the names of snapshots; empty for none.
        checkpoints: the snapshots it makes on its own.
        corrupt_share: of damaged records among all, up to which they are left out.
        aim: what its validation passes are to reach.
        timeout: longest wait for the other ranks, in seconds.
        numerics: how the nets are computed.
        shuffle: whether the records come in a random order, another one each time round.
        local_steps: between two means of the weights by the driver; 0 for an allreduce a step.
        layers: classes of layers that are the user's own, by type.
        address: the driver's end of the line, another one for each start.
    """

    solver: SolverParameter
    net: NetParameter
    source: DataSource
    validations: tuple[DataSource, ...]
    train_shapes: dict[str, Shape]
    test_shapes: tuple[dict[str, Shape], ...]
    train_state: NetState
    test_states: tuple[NetState, ...]
    ranks: int
    connection: str
    seed: int
    prefix: str
    checkpoints: Checkpoints
    aim: Aim
    corrupt_share: float
    timeout: float
    numerics: Numerics
    local_steps: int
    shuffle: bool
    layers: dict[str, type[Layer]] = field(default_factory=dict)
    address: LineAddress = NOWHERE

    @property
    def snapshot_interval(self) -> int:
        """Iterations between snapshots, 0 for none."""
        return self.solver.snapshot if self.prefix else 0

    @property
    def passes_a_step(self) -> int:
        """Batches of a rank in one step (``iter_size``)."""
        return max(1, self.solver.iter_size)

    @property
    def records_a_step(self) -> int:
        """Records of all ranks together in one step."""
        return self.ranks * self.source.batch_size * self.passes_a_step

    def learned_net(self, iteration: int, purpose: str) -> str:
        """Where the weights of a snapshot lie, for its state to name them; empty where no state is kept."""
        prefix = self.checkpoints.prefix if purpose == CHECKPOINT else self.prefix
        return model_path(prefix, iteration, self.solver.snapshot_format) if prefix else ""

    def passes_before(self, iteration: int) -> int:
        """The validation passes of each TEST net that come before those at ``iteration``."""
        interval = self.solver.test_interval
        count = -(-iteration // interval) if interval else 0
        return count - 1 if count and not self.solver.test_initialization else count


@dataclass(frozen=True)
class Start:
    """What rank 0 begins with.

    Attributes:
        models: path and content of each weights file, in the order in which they are copied; none for fresh ones.
        state: content of a solver state file, empty for none.
        state_path: where it came from.
    """

    models: tuple[tuple[str, bytes], ...] = ()
    state: bytes = b""
    state_path: str = ""


@dataclass(frozen=True)
class TrainingPlan:
    """A training job that can start.

    Attributes:
        start: the files it begins with.
        iteration: where it begins.
        seed: of the run that it goes on from; None where that is not known.
        snapshots: the files it will write.
        loss_weights: of the TRAIN net's losses, by top blob.
        aim: what the validation passes are to reach.
    """

    start: Start
    iteration: int
    seed: int | None
    snapshots: Snapshots
    loss_weights: dict[str, float]
    aim: Aim
