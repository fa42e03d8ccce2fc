"""What happens in a job, as its ranks and its driver tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Outputs = Mapping[str, Sequence[float]]
"""The values of each output blob of a net, in the net's order."""

Kind = Literal["train", "test", "features"]


@dataclass(frozen=True)
class JobStarted:
    """The ranks are connected and begin; a second one after a :class:`JobFailed` goes on from a snapshot.

    Attributes:
        kind: what the job does.
        ranks: processes that take part, one a device.
        backend: how they exchange gradients: ``gloo``, ``nccl``.
        device: what each computes on: ``cpu``, ``cuda``.
        batch_size: records a rank takes in one step.
        iteration: where the job begins; above 0 when it resumes.
        max_iter: where it will end; None when that is not known beforehand.
        display: iterations between two :class:`TrainStep`; 0 for none.
        net: the net's name.
        model_path: where the model is written (training) or was read from.
    """

    kind: Kind
    ranks: int
    backend: str
    device: str
    batch_size: int
    iteration: int = 0
    max_iter: int | None = None
    display: int = 0
    net: str = ""
    model_path: str | None = None


@dataclass(frozen=True)
class Progress:
    """A sign of life between displays.

    Attributes:
        iteration: steps done so far.
        images_per_second: of all ranks together, lately.
    """

    iteration: int
    images_per_second: float


@dataclass(frozen=True)
class TrainStep:
    """A step that Caffe's ``display`` shows.

    Attributes:
        iteration: updates made before this step.
        loss: smoothed by ``average_loss``, mean over all ranks.
        rate: the learning rate of its update; None for the pass after the last update, which makes none.
        outputs: the train net's outputs.
        images_per_second: of all ranks together, since the last display.
        seconds: since the last display.
        loss_weights: of the outputs that count in the loss.
    """

    iteration: int
    loss: float
    rate: float | None
    outputs: Outputs
    images_per_second: float
    seconds: float
    loss_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TestPass:
    """A test net went over its ``test_iter`` batches.

    Attributes:
        iteration: updates made to the weights it tested.
        net_index: which of the solver's test nets.
        outputs: the means of its outputs.
        loss_weights: of the outputs that count in the loss.
    """

    __test__ = False  # the name is no test class of pytest's

    iteration: int
    net_index: int
    outputs: Outputs
    loss_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordsSkipped:
    """A rank has met damaged records and does without them.

    Attributes:
        rank: which one.
        records: how many so far; one that is met again in a later epoch counts again.
        seen: of how many.
        example: the sentence about the last of them.
    """

    rank: int
    records: int
    seen: int
    example: str


@dataclass(frozen=True)
class SnapshotSaved:
    """A snapshot is complete.

    Attributes:
        iteration: updates made to its weights.
        path: the weights' file.
        state_path: the solver state's file; None where only weights are written.
    """

    iteration: int
    path: str
    state_path: str | None = None


@dataclass(frozen=True)
class JobFinished:
    """The job did what it was to do, or was asked to stop early.

    Attributes:
        iteration: steps done.
        seconds: from its first step to its end.
        images: records that all ranks together took, those of test passes left out.
    """

    iteration: int
    seconds: float
    images: int


@dataclass(frozen=True)
class JobFailed:
    """The job broke off.

    Attributes:
        sentence: what a person needs to know: what, where, and the way out.
    """

    sentence: str


Event = JobStarted | Progress | TrainStep | TestPass | RecordsSkipped | SnapshotSaved | JobFinished | JobFailed
