"""The training loop of one rank: Caffe's solver loop, its gradients averaged over all ranks by torch."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.layers import LAYERS
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN
from cos_runtime.caffe.solver import SmoothedLoss, Solver
from cos_runtime.engine.averaging import Exchange
from cos_runtime.engine.best import Best
from cos_runtime.engine.failures import LeaveError, PeerDivergedError
from cos_runtime.engine.feed import Feed
from cos_runtime.engine.job import TrainJob
from cos_runtime.engine.keeper import Capture, Keeper
from cos_runtime.engine.line import Line, Message
from cos_runtime.engine.loss_scale import LossScale
from cos_runtime.engine.numerics import Numerics
from cos_runtime.engine.pace import Pace
from cos_runtime.engine.parallel import Parallel
from cos_runtime.engine.snapshots import BEST, CHECKPOINT, FINAL, SNAPSHOT
from cos_runtime.engine.spool import Spool, local_folder, rebatch
from cos_runtime.engine.subsets import split
from cos_runtime.engine.validate import Validator
from cos_runtime.engine.wishes import Wish, Wishes
from cos_runtime.engine.world import World
from cos_runtime.errors import UserError
from cos_runtime.sources.tolerant import Skipped, Tolerant

# Keeps the seeds of ranks and of steps apart.
_PRIME = 1_000_003


class LossModule(nn.Module):
    """A net whose forward gives its loss and its output blobs: what `Parallel` wraps."""

    def __init__(self, net: Net, wishes: Wishes, numerics: Numerics) -> None:
        super().__init__()
        self.net = net
        self.numerics = numerics
        self.wishes = wishes
        self.wanted = list(dict.fromkeys([*net.outputs, *net.losses]))

    def forward(self, inputs: dict[str, Tensor], *, is_rehearsal: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and the wanted blobs; in a rehearsal a loss of 0 that each parameter is part of."""
        if is_rehearsal:
            return torch.stack([(each * 0).sum() for each in self.parameters() if each.requires_grad]).sum(), {}
        with self.numerics.context(self.wishes.carrier.device):
            blobs = self.net(inputs, self.wanted)
            loss = self.net.loss(blobs).float()
        return self.wishes.carried_by(loss), blobs


class Trainer:
    """One rank's training.

    Args:
        job: what all ranks do.
        world: this rank's place.
        line: to the driver.
        go: the driver's answer, with the weights and the state to begin with for rank 0.
        batches: the rank's records as Spark hands them over, those of validation first.
        wishes: what this rank has to tell the others.
    """

    def __init__(
        self,
        job: TrainJob,
        world: World,
        line: Line,
        go: Message,
        batches: Iterator[pa.RecordBatch],
        *,
        wishes: Wishes,
    ) -> None:
        self.job, self.world, self.line, self.wishes = job, world, line, wishes
        torch.manual_seed(job.seed)
        LAYERS.update(job.layers)
        state = job.train_state
        self.net = Net(job.net, TRAIN, job.train_shapes, level=state.level, stages=state.stage)
        self.records = self.ranks_since = 0
        *models, state_file = go.blobs
        files = dict(zip(go.facts["models"], models, strict=True))
        self.solver = self._begin(files, state_file, go.facts["state"])
        self.exchange = Exchange(job.address, job.timeout) if job.local_steps and not world.is_alone else None
        self._averaged_at, self._wished = self.solver.iteration, set[Wish]()
        self.module = self._wrap(LossModule(self.net, self.wishes, job.numerics))
        self.keeper = Keeper(job.address, job.checkpoints.seconds if world.rank == 0 else 0, job.timeout)
        self.validators: list[Validator] = []
        self.loss = SmoothedLoss(max(1, job.solver.average_loss))
        if job.validations:
            *validations, batches = split(batches, len(job.validations) + 1)
            first = job.passes_before(self.solver.iteration)
            spools = [Spool(each, local_folder()) for each in validations]
            self.validators = [
                Validator(job, i, spool, self.net, world, files=files, first=first) for i, spool in enumerate(spools)
            ]
        rows = rebatch(
            self._records_from(Spool(batches, local_folder(), [job.seed, world.rank] if job.shuffle else None)),
            itertools.repeat(job.source.batch_size),
        )
        fed = self.solver.iteration * job.passes_a_step
        decoder = Tolerant(job.source, job.corrupt_share, self._tell_skipped)
        self.feed = Feed(rows, decoder, [job.seed, world.rank, 0], first=fed, timeout=job.timeout)

    def _begin(self, files: dict[str, bytes], state: bytes, state_path: str) -> Solver:
        """The solver at its first iteration; rank 0 has the files, the others take its tensors."""
        for path, content in files.items():
            self.net.copy_weights(weights.parse(content, path), path)
        self.job.numerics.prepare(self.net, self.world.device)
        solver = Solver(self.job.solver, self.net)
        rows: list[np.ndarray] = []
        best = [math.nan, 0.0]
        self.loss_scale = LossScale(self.job.numerics, self.world.device, solver)
        scale = self.loss_scale.state or (1.0, 0)
        if state:
            found = solverstate.parse(state, state_path)
            solver.restore(found)
            is_same = found.ranks in {None, self.world.size}
            # Caffe keeps no position in the data: a run that resumes its state begins at the first record. So do layers
            # that read files, whose records may belong to those of the source.
            self.records = 0 if self.net.reads_in_order else found.records or 0
            self.ranks_since = min(found.ranks_since, self.records) if is_same else self.records
            # Of another number of ranks: the weights have the mean.
            rows = found.rank_blobs if is_same else []
            best = [math.nan if found.best is None else found.best, found.stale]
            if found.loss_scale is not None:
                scale = (found.loss_scale, found.loss_scale_age)
        counters = [solver.iteration, solver.current_step, self.records, self.ranks_since, len(rows)]
        shared = torch.tensor(counters, device=self.world.device)
        judged = torch.tensor([*best, *scale], dtype=torch.float64, device=self.world.device)
        self.world.copy_from_first([shared, judged, *solver.history])
        value, stale, factor, good = judged.tolist()
        self.loss_scale.restore(factor, int(good))
        self.best = Best(self.job.aim, None if math.isnan(value) else value, int(stale))
        iteration, current_step, self.records, self.ranks_since, has_rows = shared.tolist()
        solver.go_on_from(iteration, current_step)
        self._rank_blobs = self._shared_rows(rows) if has_rows else None
        return solver

    def _shared_rows(self, rows: list[np.ndarray]) -> Tensor:
        """Rank 0's vectors, one a rank, on every rank: [size, n]."""
        length = sum(blob.numel() for blob in self.net.state_blobs)
        shared = torch.zeros(self.world.size, length, device=self.world.device)
        if rows:
            shared.copy_(torch.from_numpy(np.stack(rows)))
        self.world.copy_from_first([shared])
        return shared

    def _records_from(self, spool: Spool) -> Iterator[pa.RecordBatch]:
        """The rank's records, from where an earlier run has left them."""
        start = (self.records - self.ranks_since) // self.world.size
        if self.ranks_since:
            # Other ranks took those before: which of this rank's records are among them, all must be read to know.
            start += self.world.dealt(self.ranks_since % self.world.count(spool.load()))
        return spool.cycle(start)

    def _wrap(self, module: LossModule) -> nn.Module:
        """The module with its gradients averaged over the ranks, and rank 0's parameters everywhere."""
        module.to(self.world.device)
        if self.world.is_alone:
            return module
        self.world.copy_from_first([parameter.data for parameter in self.net.parameters()])
        if self._rank_blobs is not None:
            self._set_state(self._rank_blobs[self.world.rank])
        if self.exchange:
            return module
        parallel = Parallel(module)
        if self.world.size > 2:
            # After its first backward pass torch lays the gradients out anew, and where a value lies decides in which
            # order more than two ranks add it up: so that pass is none of the training's, in any start.
            parallel({}, is_rehearsal=True)[0].backward()
            collections.deque(parallel.arriving(), maxlen=0)
        return parallel

    def _tell_skipped(self, skipped: Skipped) -> None:
        self.line.send("skipped", rank=self.world.rank, **dataclasses.asdict(skipped))

    def batches_taken(self) -> int:
        """Batches so far, those of validation included: a number that grows as long as the rank goes on."""
        return sum(feed.taken for feed in self._feeds)

    @property
    def _feeds(self) -> list[Feed]:
        return [self.feed, *(validator.feed for validator in self.validators)]

    def run(self) -> int:
        """Train until ``max_iter``, or until validation is no longer better, and return the number of iterations made.

        Raises:
            UserError: the loss or the weights are no longer finite, or a snapshot could not be written.
            LeaveError: this rank was told to end; all have made a checkpoint before.
        """
        first = self.solver.iteration
        with contextlib.ExitStack() as stack:
            for feed in self._feeds:
                stack.enter_context(feed)
            pace = Pace(self.job.records_a_step)
            while self.solver.iteration < self.job.solver.max_iter:
                self._validate_if_due(pace)
                if self.best.is_enough:
                    break
                agreed = self._step(pace)
                if Wish.DIVERGED in agreed:
                    self._refuse_divergence()
                self._keep_if_due(agreed)
            else:
                self._validate_if_due(pace)
            with pace.pause():
                self._average_state()
                self._keep(FINAL)
            if self.solver.iteration == self.job.solver.max_iter and self._display_is_due:
                self._display_one_more(pace)
            with pace.pause():  # the last of all, for the other ranks wait for nobody by then
                self.keeper.wait()
        return self.solver.iteration - first

    def _step(self, pace: Pace) -> set[Wish]:
        """One update of the weights; returns what any rank wished for by its end."""
        iteration, rate = self.solver.iteration, self.solver.rate
        # Each step has random numbers of its own, so that a resumed run draws those of an undisturbed one.
        self._seed(iteration)
        if self.keeper.is_due:
            self.wishes.ask(Wish.CHECKPOINT)
        passes = self.job.passes_a_step
        total = torch.zeros((), device=self.world.device)
        outputs: dict[str, Tensor] = {}
        for number in range(passes):
            inputs = self.job.numerics.blobs(next(self.feed), self.world.device)
            last = number == passes - 1
            # Gradients of all passes add up; the ranks exchange the sum.
            with contextlib.nullcontext() if last else self._no_exchange():
                loss, outputs = self.module(inputs)
                self.loss_scale.scaled(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.loss.add(total / passes)
        if self._display_is_due:
            self._display(rate, outputs, pace)
        self.loss_scale.step(self.module.arriving() if isinstance(self.module, Parallel) else ())
        agreed = self.wishes.agreed()
        if self.exchange:
            agreed = self._end_local_step(agreed)
        self.records += self.job.records_a_step
        pace.step()
        if self.world.rank == 0 and pace.heartbeat_is_due():
            self.line.send("progress", iteration=self.solver.iteration, images_per_second=pace.recent())
        return agreed

    def _seed(self, iteration: int) -> None:
        """Seed what dropout and its like draw from; torch's own ``manual_seed`` takes a hundred times as long."""
        seed = ((self.job.seed * _PRIME + self.world.rank) * _PRIME + iteration) % 2**63
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _refuse_divergence(self) -> None:
        loss = float(self.loss.mean())
        if math.isfinite(loss):
            raise PeerDivergedError
        raise UserError(
            f"training has diverged: the loss is {loss} at iteration {self.solver.iteration - 1}: lower base_lr, "
            "set clip_gradients, or look for wrong records"
        )

    def _keep_if_due(self, agreed: set[Wish]) -> None:
        """Make the snapshot that the solver asks for, or else the checkpoint that is due or wished for."""
        iteration = self.solver.iteration
        if self.job.snapshot_interval and iteration % self.job.snapshot_interval == 0:
            self._average_state()
            self._keep(SNAPSHOT)
        elif {Wish.CHECKPOINT, Wish.LEAVE} & agreed or self.job.checkpoints.is_due_at(iteration):
            self._keep(CHECKPOINT)
        if Wish.LEAVE in agreed:
            self.keeper.wait()
            # The others wait here for rank 0, so that nobody breaks off before the checkpoint is written.
            self.world.sum(torch.zeros(1))
            if self.wishes.is_leaving:
                raise LeaveError("it was told to end (SIGTERM)")

    def _no_exchange(self) -> contextlib.AbstractContextManager[None]:
        return self.module.no_sync() if isinstance(self.module, Parallel) else contextlib.nullcontext()

    @property
    def _display_is_due(self) -> bool:
        display = self.job.solver.display
        return bool(display) and self.solver.iteration % display == 0

    def _display(self, rate: float | None, outputs: dict[str, Tensor], pace: Pace) -> None:
        values = {name: blob.detach().reshape(-1).float() for name, blob in outputs.items() if name in self.net.outputs}
        flat = self.world.mean(torch.cat([self.loss.mean().reshape(1), *values.values()])).tolist()
        loss, rest = flat[0], iter(flat[1:])
        means = {name: list(itertools.islice(rest, len(value))) for name, value in values.items()}
        if self.world.rank == 0:
            seconds, images_per_second = pace.lap()
            self.line.send(
                "step",
                iteration=self.solver.iteration,
                loss=loss,
                rate=rate,
                outputs=means,
                images_per_second=images_per_second,
                seconds=seconds,
            )

    def _display_one_more(self, pace: Pace) -> None:
        """Show the loss of a batch after the last update, as Caffe does once everything is kept."""
        with pace.pause():
            self._seed(self.solver.iteration)
            inputs = self.job.numerics.blobs(next(self.feed), self.world.device)
            with torch.no_grad(), self.job.numerics.context(self.world.device):
                self.loss.add(self.net.loss(self.net(inputs, self.net.losses)).float())
        self._display(None, {}, pace)

    def _validate_if_due(self, pace: Pace) -> None:
        iteration, interval = self.solver.iteration, self.job.solver.test_interval
        if not self.validators or not interval or iteration % interval:
            return
        if iteration == 0 and not self.job.solver.test_initialization:
            return
        with pace.pause():
            self._average_state()
            passes = [validator.run() for validator in self.validators]
        if self.world.rank == 0:
            for index, (validator, outputs) in enumerate(zip(self.validators, passes, strict=True)):
                told = {"net_index": index, "outputs": outputs, "loss_weights": validator.net.losses}
                self.line.send("test", iteration=iteration, **told)
        if self.best.take(passes[0]):
            self._keep(BEST)

    def _end_local_step(self, wished: set[Wish]) -> set[Wish]:
        """After a step without an exchange: a round's last has the weights averaged, and the wishes of all told."""
        self._wished |= wished
        if self.solver.iteration % self.job.local_steps:
            return set()
        self._average_state()
        counts = torch.zeros(len(Wish))
        counts[list(self._wished)] = 1.0
        self._wished = set()
        told = self.world.sum(counts).tolist()
        return {wish for wish in Wish if told[wish]}

    def _average_state(self) -> None:
        """Make what layers keep themselves (BatchNorm's sums) the mean over the ranks, weights too if they differ."""
        if self.exchange and self._averaged_at != self.solver.iteration:
            self._averaged_at = self.solver.iteration
            self.exchange.average([blob.parameter for blob in self.net.learnable])
        if not self.world.is_alone and self.net.state_blobs:
            self._set_state(self.world.mean(self._state()))

    def _state(self) -> Tensor:
        """What layers keep themselves, in one vector [n]."""
        return torch.cat([blob.data.reshape(-1) for blob in self.net.state_blobs])

    def _set_state(self, values: Tensor) -> None:
        """Put such a vector back."""
        parts = torch.split(values, [blob.numel() for blob in self.net.state_blobs])
        for blob, part in zip(self.net.state_blobs, parts, strict=True):
            blob.data.copy_(part.view(blob.shape))

    def _keep(self, purpose: str) -> None:
        """Copy what a snapshot is made of and send it on its way; all ranks call it, rank 0 has the work."""
        has_own_state = bool(self.net.state_blobs) and not self.world.is_alone
        # An undisturbed run does not average here, so each rank's own is kept beside the mean.
        rows = self.world.gather(self._state()) if has_own_state else torch.empty(0)
        if self.world.rank != 0:
            return
        if has_own_state:
            self._set_state(rows.mean(0))
        iteration, file_format = self.solver.iteration, self.job.solver.snapshot_format
        scale, age = self.loss_scale.state or (None, 0)
        state = dataclasses.replace(
            self.solver.state(self.job.learned_net(iteration, purpose)),
            records=self.records,
            ranks=self.world.size,
            ranks_since=self.ranks_since,
            seed=self.job.seed,
            best=self.best.value,
            stale=self.best.stale,
            loss_scale=scale,
            loss_scale_age=age,
            rank_blobs=list(rows.cpu().numpy()),
        )
        self.keeper.keep(Capture(purpose, self.net.param, self.net.weights(), state, file_format))
        if has_own_state:
            self._set_state(rows[0])
