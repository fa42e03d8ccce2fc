"""The Python workers that Spark keeps from one job to the next: those that have imported torch, apart from others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

# Spark keeps idle workers by their environment, and gives out the one that has been idle longest.
_MARK = "COS_TORCH"
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def with_torch(spark: SparkSession) -> Iterator[None]:
    """Have the functions that Spark is given in this block run in workers that only such functions share.

    Importing torch takes seconds. In the workers of all functions a rank would often get one that has read records so
    far, and the one with torch would read records.
    """
    environment = spark.sparkContext.environment
    with _ONE_AT_A_TIME:  # Spark takes the environment of all threads' functions from one place
        environment[_MARK] = "1"
        try:
            yield
        finally:
            del environment[_MARK]
