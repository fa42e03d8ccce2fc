"""Training from the driver's side: one barrier stage, and the line to its ranks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import BarrierTaskContext
from pyspark.sql import DataFrame, SparkSession

from cos_runtime.engine import decommission, workers
from cos_runtime.engine.dispatcher import Dispatcher
from cos_runtime.engine.failures import SPARKS_ERRORS, JobCancelled, RankError, is_shut_down, of_spark
from cos_runtime.engine.host import check_open_files
from cos_runtime.engine.job import Start, TrainJob
from cos_runtime.engine.line import Message, Switchboard
from cos_runtime.engine.rank import RESULT_SCHEMA, run_rank

# Spark's account of a failure and the ranks' own come by different ways: this long for the later one.
_GRACE = 1.0
# In the stack trace of whatever a rank itself has raised.
_IN_A_RANK = f"in {run_rank.__name__}"


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
            on_message: takes the ranks' reports, on other threads; what it raises ends the job.

        Raises:
            RankError: a rank failed.
            JobCancelled: Spark was told to stop the job.
        """
        context, job = spark.sparkContext, self.job
        check_open_files(job.ranks)  # the driver has a line to each rank
        group = f"cos-{job.address.port}"
        dispatcher = Dispatcher(self.switchboard, job, self.start, on_message, lambda: context.cancelJobGroup(group))
        thread = threading.Thread(target=dispatcher.run, name="cos-dispatcher", daemon=True)
        thread.start()
        description = f"cos train: {job.net.name}, {job.ranks} ranks, {job.solver.max_iter} iterations"
        context.setJobGroup(group, description, interruptOnCancel=True)
        try:
            with decommission.watched(spark, dispatcher.ask_for_checkpoint):
                with workers.with_torch(spark):
                    ranks = rows.mapInArrow(_task(job), RESULT_SCHEMA, barrier=True)
                ended = len(ranks.collect())
        except SPARKS_ERRORS as error:
            if is_shut_down(error):  # and took the ranks with it, who are no cause then
                raise JobCancelled from None
            cause = self._cause(dispatcher, str(error))
            if isinstance(cause, RankError):
                dispatcher.end()
                thread.join(job.timeout)  # a new start begins with the snapshot that is just being written
            # Else no waiting: after Ctrl-C the JVM is about to end, and it takes what is said to the terminal.
            raise cause from None
        finally:
            dispatcher.end()
            with contextlib.suppress(Py4JError, ConnectionError):  # Ctrl-C ends the JVM too
                context._jsc.clearJobGroup()  # PySpark itself has no word for it
        thread.join(job.timeout)  # for the last reports
        failure = dispatcher.failure()
        if failure:
            raise failure
        if ended != job.ranks:  # for no records at all Spark may plan no task
            raise RankError(f"{ended} of {job.ranks} ranks ran: has the source any records?", is_users=True)

    @staticmethod
    def _cause(dispatcher: Dispatcher, text: str) -> RankError | JobCancelled:
        """The cause, of what the ranks said and of Spark's own account."""
        told = of_spark(text)
        if isinstance(told, JobCancelled) and not dispatcher.decided.is_set():
            return told
        dispatcher.decided.wait(_GRACE)
        found = dispatcher.failure()
        if found is None:
            return told
        # A rank that ends without a word may have been ended by Spark, for a failure that Spark alone knows of.
        is_sparks = found.is_lost and isinstance(told, RankError) and not told.is_lost and _IN_A_RANK not in text
        return told if is_sparks else found


def _task(job: TrainJob) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return run_rank(job, BarrierTaskContext.get().partitionId(), batches)

    return task
