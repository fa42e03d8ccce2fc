"""The training loop of one rank: Caffe's solver loop, its gradients averaged over all ranks by torch."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN
from cos_runtime.caffe.solver import SmoothedLoss, Solver
from cos_runtime.engine import snapshots
from cos_runtime.engine.feed import Feed
from cos_runtime.engine.job import TrainJob
from cos_runtime.engine.line import Line, Message
from cos_runtime.engine.spool import Spool, local_folder, rebatch
from cos_runtime.engine.validate import Validator
from cos_runtime.engine.world import World
from cos_runtime.sources.deal import SUBSET

_HEARTBEAT = 0.5


class LossModule(nn.Module):
    """A net whose forward gives its loss and its output blobs: what torch's DistributedDataParallel wraps."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.wanted = list(dict.fromkeys([*net.outputs, *net.losses]))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and the wanted blobs."""
        blobs = self.net(inputs, self.wanted)
        return self.net.loss(blobs), blobs


class Trainer:
    """One rank's training.

    Args:
        job: what all ranks do.
        world: this rank's place.
        line: to the driver.
        go: the driver's answer, with the weights and the state to begin with for rank 0.
        batches: the rank's records as Spark hands them over, those of validation first.
    """

    def __init__(self, job: TrainJob, world: World, line: Line, go: Message, batches: Iterator[pa.RecordBatch]) -> None:
        self.job, self.world, self.line = job, world, line
        torch.manual_seed(job.seed)
        state = job.solver.train_state
        self.net = Net(job.net, TRAIN, job.train_shapes, level=state.level, stages=state.stage)
        self.solver = self._begin(go)
        torch.manual_seed(job.seed + 1 + world.rank)  # dropout differs by rank
        self.module = self._wrap(LossModule(self.net))
        self.loss = SmoothedLoss(max(1, job.solver.average_loss))
        validation, batches = _validation_first(batches) if job.validation else (None, batches)
        self.validator = None
        if job.validation and validation is not None:
            spool = Spool(validation, local_folder())
            spool.load()
            self.validator = Validator(job, job.validation, spool, self.net, world)
        rows = rebatch(Spool(batches, local_folder()).cycle(), itertools.repeat(job.source.batch_size))
        self.feed = Feed(rows, job.source, [job.seed, world.rank, 0], timeout=job.timeout)
        self._images_per_step = job.source.batch_size * max(1, job.solver.iter_size) * job.ranks

    def _begin(self, go: Message) -> Solver:
        """The solver at its first iteration; rank 0 has the files, the others take its tensors."""
        model, state = go.blobs if go.blobs else (b"", b"")
        if model:
            self.net.copy_weights(weights.parse(model, go.facts["model"]), go.facts["model"])
        self.net.to(self.world.device)
        solver = Solver(self.job.solver, self.net)
        if state:
            solver.restore(solverstate.parse(state, go.facts["state"]))
        counters = torch.tensor([solver.iteration, solver.current_step], device=self.world.device)
        self.world.copy_from_first([counters, *solver.history])
        solver.iteration, solver.current_step = counters.tolist()
        return solver

    def _wrap(self, module: LossModule) -> nn.Module:
        """The module with its gradients averaged over the ranks, and rank 0's parameters everywhere."""
        module.to(self.world.device)
        if self.world.is_alone:
            return module
        self.world.copy_from_first([parameter.data for parameter in self.net.parameters()])
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            return module
        return DistributedDataParallel(
            module, init_sync=False, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def run(self) -> int:
        """Train until ``max_iter`` and return the number of iterations made."""
        first = self.solver.iteration
        last = self.job.solver.max_iter
        with self.feed, self.validator.feed if self.validator else contextlib.nullcontext():
            pace = _Pace(self._images_per_step)
            while self.solver.iteration < last:
                self._validate_if_due(pace)
                self._step(pace)
                interval = self.job.snapshot_interval
                if interval and self.solver.iteration % interval == 0:
                    self._snapshot(is_final=False)
            self._validate_if_due(pace)
        self._snapshot(is_final=True)
        return self.solver.iteration - first

    def _step(self, pace: _Pace) -> None:
        iteration, rate = self.solver.iteration, self.solver.rate
        passes = max(1, self.job.solver.iter_size)
        total = torch.zeros((), device=self.world.device)
        outputs: dict[str, Tensor] = {}
        for number in range(passes):
            inputs = {name: blob.to(self.world.device) for name, blob in next(self.feed).items()}
            last = number == passes - 1
            # Gradients of all passes add up; the ranks exchange the sum.
            with contextlib.nullcontext() if last else self._no_exchange():
                loss, outputs = self.module(inputs)
                if loss.requires_grad:
                    loss.backward()
            total += loss.detach()
        self.loss.add(total / passes)
        if self.job.solver.display and iteration % self.job.solver.display == 0:
            self._display(iteration, rate, outputs, pace)
        self.solver.step()
        pace.step()
        if self.world.rank == 0 and pace.heartbeat_is_due():
            self.line.send("progress", iteration=self.solver.iteration, images_per_second=pace.recent())

    def _no_exchange(self) -> contextlib.AbstractContextManager[None]:
        return self.module.no_sync() if isinstance(self.module, DistributedDataParallel) else contextlib.nullcontext()

    def _display(self, iteration: int, rate: float, outputs: dict[str, Tensor], pace: _Pace) -> None:
        values = {name: outputs[name].detach().reshape(-1).float() for name in self.net.outputs}
        flat = self.world.mean(torch.cat([self.loss.mean().reshape(1), *values.values()])).tolist()
        loss, rest = flat[0], iter(flat[1:])
        means = {name: list(itertools.islice(rest, len(value))) for name, value in values.items()}
        if self.world.rank == 0:
            seconds, images_per_second = pace.lap()
            self.line.send(
                "step",
                iteration=iteration,
                loss=loss,
                rate=rate,
                outputs=means,
                images_per_second=images_per_second,
                seconds=seconds,
            )

    def _validate_if_due(self, pace: _Pace) -> None:
        iteration, interval = self.solver.iteration, self.job.solver.test_interval
        if self.validator is None or not interval or iteration % interval:
            return
        if iteration == 0 and not self.job.solver.test_initialization:
            return
        with pace.pause():
            self._average_state()
            outputs = self.validator.run()
        if self.world.rank == 0:
            self.line.send("test", iteration=iteration, outputs=outputs, loss_weights=self.validator.net.losses)

    def _average_state(self) -> None:
        """Make what layers keep themselves (BatchNorm's sums) the mean over the ranks."""
        if not self.world.is_alone:
            for blob in self.net.state_blobs:
                blob.data.copy_(self.world.mean(blob.data))

    def _snapshot(self, *, is_final: bool) -> None:
        self._average_state()
        if self.world.rank != 0:
            return
        iteration = self.solver.iteration
        file_format = self.job.solver.snapshot_format
        model = weights.serialize(self.net.param, self.net.weights(), file_format)
        learned_net = snapshots.model_path(self.job.prefix, iteration, file_format) if self.job.prefix else ""
        state = solverstate.serialize(self.solver.state(learned_net), file_format)
        self.line.send("snapshot", model, state, iteration=iteration, is_final=is_final)


def _validation_first(
    batches: Iterator[pa.RecordBatch],
) -> tuple[Iterator[pa.RecordBatch], Iterator[pa.RecordBatch]]:
    """Split the stream into its leading validation rows and the training rows after them.

    The first iterator is to be exhausted before the second is begun.
    """
    border: list[pa.RecordBatch] = []

    def validation() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            # The column is sorted within the partition.
            count = batch.num_rows - int(pc.sum(batch.column(SUBSET)).as_py())
            rows = batch.drop_columns([SUBSET])
            yield rows.slice(0, count)
            if count < batch.num_rows:
                border.append(rows.slice(count))
                return

    def training() -> Iterator[pa.RecordBatch]:
        yield from border
        for batch in batches:
            yield batch.drop_columns([SUBSET])

    return validation(), training()


class _Pace:
    """Speed over the laps between displays and over the time since the last heartbeat, without pauses."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._lap_start = self._beat_start = time.monotonic()
        self._lap_steps = self._beat_steps = 0

    def step(self) -> None:
        self._lap_steps += 1
        self._beat_steps += 1

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        length = time.monotonic() - start
        self._lap_start += length
        self._beat_start += length

    def lap(self) -> tuple[float, float]:
        """Seconds and images a second since the last lap."""
        now = time.monotonic()
        seconds, steps = now - self._lap_start, self._lap_steps
        self._lap_start, self._lap_steps = now, 0
        return seconds, steps * self._images_per_step / seconds if seconds else 0.0

    def heartbeat_is_due(self) -> bool:
        return time.monotonic() - self._beat_start >= _HEARTBEAT

    def recent(self) -> float:
        """Images a second since the last heartbeat."""
        now = time.monotonic()
        speed = self._beat_steps * self._images_per_step / (now - self._beat_start)
        self._beat_start, self._beat_steps = now, 0
        return speed
