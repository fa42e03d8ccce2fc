"""Training to its end: a barrier stage that dies is started anew from the last snapshot.

Spark aborts a barrier stage of which one task fails, and does not try it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from cos_runtime.engine import slots
from cos_runtime.engine.driver import Stage
from cos_runtime.engine.failures import SPARKS_ERRORS, JobCancelled, RankError, is_shut_down, of_spark
from cos_runtime.engine.job import TrainingPlan, TrainJob
from cos_runtime.engine.line import Switchboard
from cos_runtime.engine.tell import Teller
from cos_runtime.errors import UserError


@dataclass(frozen=True)
class Policy:
    """How hard to try.

    Attributes:
        restarts: most new starts of one job.
        slot_seconds: longest wait for the task slots of a new start.
        asked: how the user asked for the ranks, for messages.
    """

    restarts: int
    slot_seconds: float
    asked: str


def run(
    spark: SparkSession,
    job: TrainJob,
    plan: TrainingPlan,
    make_rows: Callable[[], DataFrame],
    teller: Teller,
    *,
    policy: Policy,
) -> None:
    """Train until ``max_iter``, with as many new starts as the policy allows.

    Args:
        job: what the ranks do.
        make_rows: the dealt records; called anew for each start, as lost executors may have had parts of them.
        teller: takes the ranks' reports, and knows the last snapshot.

    Raises:
        RankError: a rank failed for a reason that a new start does not mend, or once too often.
        JobCancelled: the job was stopped from outside.
    """
    start = plan.start
    for restarts in range(policy.restarts + 1):
        teller.refuse_cancelled()  # where Spark had no job yet, or none any more, that could be cancelled
        try:
            with _switchboard(spark) as board:
                rows = _made(spark, make_rows)
                Stage(dataclasses.replace(job, address=board.address), start, board).run(spark, rows, teller)
        except RankError as error:
            if not error.is_lost or restarts == policy.restarts:
                raise _said(error, restarts) from None
            teller.restarting(str(error), restarts + 1, policy.restarts)
            _wait_for_slots(spark, job.ranks, policy, error)
            start = teller.restart() or plan.start
        else:
            return


def _made(spark: SparkSession, make_rows: Callable[[], DataFrame]) -> DataFrame:
    try:
        return make_rows()
    except SPARKS_ERRORS as error:
        if isinstance(error, ConnectionError) and _is_alive(spark):
            raise  # the source's own: its code runs here too
        if is_shut_down(error):
            raise JobCancelled from None
        raise of_spark(str(error), "the records could not be dealt") from None


def _is_alive(spark: SparkSession) -> bool:
    try:
        return not spark.sparkContext._jsc.sc().isStopped()
    except (AttributeError, *SPARKS_ERRORS):
        return False


def _said(error: RankError, restarts: int) -> RankError:
    if not restarts:
        return error
    return RankError(
        f"{error} (after {restarts} new start{'s' * (restarts > 1)})", error.trace, is_users=error.is_users
    )


def _wait_for_slots(spark: SparkSession, ranks: int, policy: Policy, cause: RankError) -> None:
    try:
        slots.wait_for(spark, ranks, policy.asked, policy.slot_seconds)
    except UserError as error:
        raise RankError(f"{cause}; and no new start: {error}") from None


def _switchboard(spark: SparkSession) -> Switchboard:
    conf = spark.sparkContext.getConf()
    host = conf.get("spark.driver.host", "localhost")
    return Switchboard(host, conf.get("spark.driver.bindAddress", host))
