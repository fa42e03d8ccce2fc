"""Task slots: counted before a barrier stage starts, which would otherwise wait for them without a word."""

from __future__ import annotations

import time

from pyspark import SparkConf
from pyspark.sql import SparkSession

from cos_runtime.errors import UserError

_POLL = 0.2


def count(spark: SparkSession) -> int:
    """How many tasks the application can run at the same time, now."""
    context = spark.sparkContext._jsc.sc()  # PySpark has no word for it
    return int(context.maxNumConcurrentTasks(context.resourceProfileManager().defaultResourceProfile()))


def wait_for(spark: SparkSession, ranks: int, asked: str, limit: float | None = None) -> None:
    """Wait until there is a slot for every rank; executors may still be coming up.

    Args:
        asked: how the user asked for that many ranks, for the message.
        limit: longest wait in seconds, by default ``spark.scheduler.maxRegisteredResourcesWaitingTime`` (30 s).

    Raises:
        UserError: there are fewer when that time is over.
    """
    is_local = str(spark.sparkContext.master).startswith("local[")
    if is_local:
        limit = 0.0
    elif limit is None:
        limit = longest_registration(spark.sparkContext.getConf())
    deadline = time.monotonic() + limit
    while (slots := count(spark)) < ranks:
        if time.monotonic() >= deadline:
            cure = (
                f"--master local[{ranks}]"
                if is_local
                else f"spark.cores.max={ranks} or more (of spark.task.cpus each), or more workers"
            )
            raise UserError(
                f"{ranks} ranks ({asked}) need {ranks} task slots at the same time and the application has {slots}: "
                f"give it {cure}, or lower -clusterSize or -devices"
            )
        time.sleep(_POLL)


def longest_registration(conf: SparkConf) -> float:
    """How long Spark itself waits for executors before it starts tasks, in seconds."""
    name = "spark.scheduler.maxRegisteredResourcesWaitingTime"
    return int(conf._jconf.getTimeAsMs(name, "30s")) / 1000  # type: ignore[union-attr] # there is a JVM by now
