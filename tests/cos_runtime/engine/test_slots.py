"""How long the application waits for its executors."""

import pytest
from pyspark import SparkConf

from cos_runtime.engine import slots


@pytest.mark.parametrize(("text", "seconds"), [("30000", 30), ("30S", 30), ("2min", 120), ("500ms", 0.5), ("", 30)])
def test_times_are_read_as_spark_reads_them(spark, text: str, seconds: float):
    conf = SparkConf(loadDefaults=False)
    if text:
        conf.set("spark.scheduler.maxRegisteredResourcesWaitingTime", text)
    assert slots.longest_registration(conf) == seconds
