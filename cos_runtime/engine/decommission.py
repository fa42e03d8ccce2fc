"""Executors that Spark is about to take away (``spark.decommission.enabled``): noticed while there is time to act."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

_POLL = 0.5


@contextlib.contextmanager
def watched(spark: SparkSession, on_notice: Callable[[], None]) -> Iterator[None]:
    """Call ``on_notice``, on another thread, for every executor that Spark begins to decommission meanwhile."""
    context = spark.sparkContext
    if context.getConf().get("spark.decommission.enabled", "false") != "true" or str(context.master).startswith(
        "local["
    ):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(spark, on_notice, stop), name="cos-decommission", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_POLL * 2)


def _watch(spark: SparkSession, on_notice: Callable[[], None], stop: threading.Event) -> None:
    known: set[str] = set()
    # A Spark that has ended has no executors to take away.
    with contextlib.suppress(Py4JError, ConnectionError):
        while not stop.wait(_POLL):
            leaving = _leaving(spark)
            if leaving - known:
                on_notice()
            known |= leaving


def _leaving(spark: SparkSession) -> set[str]:
    """Ids of the executors that are being decommissioned."""
    context = spark.sparkContext._jsc.sc()  # PySpark has no word for it
    scheduler = context.taskScheduler()
    ids = context.getExecutorIds().mkString(",")
    return {name for name in ids.split(",") if name and scheduler.getExecutorDecommissionState(name).isDefined()}
