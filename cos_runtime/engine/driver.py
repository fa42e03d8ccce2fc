"""Training from the driver's side: one barrier stage, and the line to its ranks."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark import BarrierTaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine.job import Start, TrainJob
from cos_runtime.engine.line import Line, Message, Switchboard
from cos_runtime.engine.rank import RESULT_SCHEMA, run_rank

_IDLE = 0.5
# Failures of several ranks come in together; which one was the cause is told once all are here.
_GRACE = 1.0
# Of SparkException: "Job 3 cancelled …", "Job aborted due to stage failure: … Stage 4 was cancelled".
_CANCELLED = re.compile(r"\b(Job|Stage) \d+ (was )?cancelled\b")


class RankError(Exception):
    """A rank failed: the message names it, its host and the cause.

    Attributes:
        trace: the stack trace on the rank, empty if there is none.
        is_users: whether the cause is a mistake the user can mend.
        is_told: whether the reporters have shown the message.
    """

    def __init__(self, message: str, trace: str = "", *, is_users: bool = False) -> None:
        super().__init__(message)
        self.trace = trace
        self.is_users = is_users
        self.is_told = False


class JobCancelled(Exception):  # noqa: N818 - no error: somebody wanted it
    """The job was stopped from outside: by Ctrl-C, by another thread of the program, or in Spark's UI."""


@dataclass
class _Rank:
    rank: int
    host: str
    gpus: int
    store: list[object] | None
    line: Line
    is_done: bool = False


@dataclass
class Dispatcher:
    """Answers the ranks' first words and passes on the others, on a thread of its own.

    Attributes:
        on_message: called with every later message; what it raises ends the job.
        on_failure: called once, at the first failure.
    """

    switchboard: Switchboard
    job: TrainJob
    start: Start
    on_message: Callable[[Message], None]
    on_failure: Callable[[], None]
    failures: list[tuple[bool, RankError]] = field(default_factory=list)
    _ranks: dict[Line, _Rank] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Handle messages until :meth:`end` is called and none is left."""
        while True:
            for line, message in self.switchboard.messages(_IDLE):
                try:
                    self._handle(line, message)
                except Exception as error:  # noqa: BLE001 - raised again on the main thread
                    self._fail(RankError(str(error) or type(error).__name__), is_consequence=False)
            if self._ended.is_set():
                return

    def end(self) -> None:
        """No more messages will come."""
        self._ended.set()

    def failure(self) -> RankError | None:
        """The cause of the failure: the first one that is not a mere consequence of another."""
        causes = [error for is_consequence, error in self.failures if not is_consequence]
        return next(iter(causes or [error for _, error in self.failures]), None)

    def _handle(self, line: Line, message: Message | None) -> None:
        if message is None:
            rank = self._ranks.get(line)
            if rank and not rank.is_done:
                text = f"rank {rank.rank} on {rank.host} ended without a word: it was killed, or ran out of memory"
                self._fail(RankError(text), is_consequence=False)
        elif message.kind == "hello":
            facts = message.facts
            self._ranks[line] = _Rank(facts["rank"], facts["host"], facts["gpus"], facts["store"], line)
            if len(self._ranks) == self.job.ranks:
                self._go()
        elif message.kind == "done":
            self._ranks[line].is_done = True
        elif message.kind == "failed":
            self._failed(self._ranks.get(line), message)
        else:
            self.on_message(message)

    def _go(self) -> None:
        ranks = sorted(self._ranks.values(), key=lambda rank: rank.rank)
        device = self._device(ranks)
        self.on_message(Message("started", {"device": device}))
        store = ranks[0].store
        seen: dict[str, int] = {}
        for rank in ranks:
            place = seen[rank.host] = seen.get(rank.host, -1) + 1
            files = (self.start.model, self.start.state) if rank.rank == 0 else ()
            rank.line.send(
                "go",
                *files,
                device=device,
                rank_of_host=place,
                store=store,
                model=self.start.model_path,
                state=self.start.state_path,
            )

    def _device(self, ranks: list[_Rank]) -> str:
        """GPUs if the solver asks for them, or if it does not say and every rank's host has some."""
        solver = self.job.solver
        without = next((rank for rank in ranks if not rank.gpus), None)
        if solver.HasField("solver_mode") and solver.solver_mode == SolverParameter.CPU:
            return "cpu"
        if without is None:
            return "cuda"
        if solver.HasField("solver_mode"):
            text = (
                f"solver_mode is GPU and rank {without.rank} on {without.host} sees no GPU: "
                "set solver_mode: CPU, or use nodes with GPUs"
            )
            raise RankError(text, is_users=True)
        return "cpu"

    def _failed(self, rank: _Rank | None, message: Message) -> None:
        facts = message.facts
        where = f"rank {rank.rank} on {rank.host}" if rank else "a rank"
        is_users = facts["type"] == "UserError"
        cause = facts["error"] if is_users or not facts["error"] else f"{facts['type']}: {facts['error']}"
        if rank:
            rank.is_done = True
        error = RankError(f"{where}: {cause or facts['type']}", facts["trace"], is_users=is_users)
        self._fail(error, is_consequence=facts["is_consequence"])

    def _fail(self, error: RankError, *, is_consequence: bool) -> None:
        self.failures.append((is_consequence, error))
        if len(self.failures) == 1:
            self.on_failure()


@dataclass(frozen=True)
class Stage:
    """One barrier stage: a rank a task.

    Attributes:
        job: what the ranks do.
        start: what rank 0 begins with.
        switchboard: takes the ranks' calls.
    """

    job: TrainJob
    start: Start
    switchboard: Switchboard

    def run(self, spark: SparkSession, rows: DataFrame, on_message: Callable[[Message], None]) -> None:
        """Run it to its end.

        Args:
            rows: the records, in exactly ``job.ranks`` partitions.
            on_message: takes the ranks' reports, on another thread; what it raises ends the job.

        Raises:
            RankError: a rank failed.
            JobCancelled: Spark was told to stop the job.
        """
        context, job = spark.sparkContext, self.job
        group = f"cos-{job.address.port}"
        dispatcher = Dispatcher(self.switchboard, job, self.start, on_message, lambda: context.cancelJobGroup(group))
        thread = threading.Thread(target=dispatcher.run, name="cos-dispatcher", daemon=True)
        thread.start()
        description = f"cos train: {job.net.name}, {job.ranks} ranks, {job.solver.max_iter} iterations"
        context.setJobGroup(group, description, interruptOnCancel=True)
        try:
            rows.mapInArrow(_task(job), RESULT_SCHEMA, barrier=True).collect()
        except (PySparkException, Py4JError, ConnectionError) as error:
            thread.join(_GRACE)
            if _is_shut_down(error):  # and took the ranks with it, who are no cause then
                raise JobCancelled from None
            raise dispatcher.failure() or _cause(str(error)) from None
        finally:
            dispatcher.end()
            thread.join(_GRACE + _IDLE)
            with contextlib.suppress(Py4JError, ConnectionError):  # Ctrl-C ends the JVM too
                context._jsc.clearJobGroup()  # PySpark itself has no word for it
        failure = dispatcher.failure()
        if failure:
            raise failure


def _task(job: TrainJob) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return run_rank(job, BarrierTaskContext.get().partitionId(), batches)

    return task


def _is_shut_down(error: Exception) -> bool:
    """Whether Spark itself has ended: its JVM is gone, or on its way."""
    return isinstance(error, Py4JNetworkError | ConnectionError) or "SparkContext was shut down" in str(error)


def _cause(text: str) -> RankError | JobCancelled:
    """What Spark's own account of a failed stage comes to, where no rank has given one."""
    if _CANCELLED.search(text):
        return JobCancelled()
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    errors = [line for line in lines if "Error: " in line or "Exception: " in line]
    return RankError(f"a task failed before its rank began: {errors[-1] if errors else lines[0]}", text)
