"""What the ranks report, turned into files and into events for the reporters."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from cos_runtime import storage
from cos_runtime.engine.failures import JobCancelled
from cos_runtime.engine.job import Start, TrainingPlan, TrainJob
from cos_runtime.engine.line import Message
from cos_runtime.engine.report.events import (
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)
from cos_runtime.engine.report.reporters import Reporters
from cos_runtime.engine.snapshots import Saved

# Longest wait of a job's last words for a snapshot that is just being written.
_SAVING_SECONDS = 0.5


class Teller:
    """Takes the messages of a training job on the driver; once the job is cancelled, passes over them.

    Its methods may come on several threads. Those that tell of an end or a new start raise JobCancelled where the job
    is cancelled, whatever it came to.

    Args:
        job: the job.
        plan: where it begins, and where its snapshots go.
        reporters: take the events.

    Attributes:
        passes: the validation passes so far.
    """

    def __init__(self, job: TrainJob, plan: TrainingPlan, reporters: Reporters) -> None:
        self.passes: list[TestPass] = []
        self._job, self._plan, self._snapshots, self._reporters = job, plan, plan.snapshots, reporters
        self._first = self._iteration = plan.iteration
        self._last_saved: Saved | None = None
        self._at: int | None = None  # of the last snapshot
        self._loss_weights = plan.loss_weights
        self._begin = 0.0
        self._saving, self._ending = threading.Lock(), threading.Lock()
        self._is_cancelled = self._is_over = False

    def __call__(self, message: Message) -> None:
        """Handle one message."""
        if self._is_cancelled:
            if message.kind == "started":  # Spark had no job to cancel when it was: it ends this one
                raise JobCancelled
            return
        facts = message.facts
        self._iteration = max(self._iteration, facts.get("iteration", 0))
        if message.kind == "started":
            self._started(facts["device"])
        elif message.kind == "progress":
            self._reporters.emit(Progress(**facts))
        elif message.kind == "step":
            self._reporters.emit(TrainStep(**facts, loss_weights=self._loss_weights))
        elif message.kind == "test":
            self.passes.append(TestPass(**facts))
            self._reporters.emit(self.passes[-1])
        elif message.kind == "skipped":
            self._reporters.emit(RecordsSkipped(**facts))
        elif message.kind == "snapshot":
            with self._saving:
                if not self._is_cancelled:
                    self._save(message)
        else:
            raise ValueError(f"a rank sent a message of the unknown kind {message.kind!r}")

    def _save(self, message: Message) -> None:
        facts, (model, state) = message.facts, message.blobs
        for saved in self._snapshots.save(facts["iteration"], model, state, facts["purpose"]):
            if saved.state:
                self._last_saved, self._at = saved, facts["iteration"]
            self._reporters.emit(SnapshotSaved(facts["iteration"], saved.model, saved.state))
        if not self._is_cancelled:  # else the last words have named the one before
            self._snapshots.remove_checkpoints(self._snapshots.kept)

    def finish(self) -> None:
        """The job has ended well."""
        with self._going_on():
            self._is_over = True
            self._snapshots.remove_checkpoints()
            last = self._iteration
            images = (last - self._first) * self._job.records_a_step
            self._reporters.emit(JobFinished(last, time.monotonic() - self._begin, images))

    def cancelled(self) -> None:
        """The job is stopped from outside."""
        with self._ending:
            if self._is_cancelled or self._is_over:
                return
            self._is_cancelled = True
            if self._saving.acquire(timeout=_SAVING_SECONDS):
                self._saving.release()
            self._reporters.emit(JobFailed(f"training was stopped at iteration {self._iteration}: {self._way_on()}"))

    def failed(self, cause: str) -> None:
        """The job has ended badly."""
        with self._going_on():
            self._is_over = True
            self._reporters.emit(JobFailed(f"{cause}; {self._way_on()}" if self._last_saved else cause))

    def restarting(self, cause: str, attempt: int, most: int) -> None:
        """The job has broken off and begins anew."""
        with self._going_on():
            where = f"iteration {self._first if self._at is None else self._at:,}"
            self._reporters.emit(JobFailed(f"{cause}; new start {attempt} of {most} at most, from {where}"))

    def refuse_cancelled(self) -> None:
        """Raise JobCancelled if the job is."""
        with self._going_on():
            return

    def restart(self) -> Start | None:
        """What a new start begins with: the last snapshot of this job; None where there is none yet."""
        saved, self._iteration = self._last_saved, self._first if self._at is None else self._at
        self.passes = [done for done in self.passes if done.iteration < self._iteration]
        if saved is None or saved.state is None:
            return None
        model, state = (storage.read_bytes(path, "snapshot") for path in (saved.model, saved.state))
        # The job's own files first, for what the TEST nets alone have.
        return Start((*self._plan.start.models, (saved.model, model)), state, saved.state)

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Refuse a job that is cancelled, whose last words have been said by then."""
        with self._ending:
            if self._is_cancelled:
                raise JobCancelled
            yield

    def _way_on(self) -> str:
        saved = self._last_saved
        return f"go on with -snapshot {saved.state} -weights {saved.model}" if saved else "it had no snapshot yet"

    def _started(self, device: str) -> None:
        self._begin = self._begin or time.monotonic()
        alone = self._job.ranks == 1
        self._reporters.emit(
            JobStarted(
                kind="train",
                ranks=self._job.ranks,
                backend="" if alone else "nccl" if device == "cuda" else "gloo",
                device=device,
                batch_size=self._job.source.batch_size,
                iteration=self._first if self._at is None else self._at,
                max_iter=self._job.solver.max_iter,
                display=self._job.solver.display,
                net=self._job.net.name,
                model_path=self._snapshots.model or None,
            )
        )
