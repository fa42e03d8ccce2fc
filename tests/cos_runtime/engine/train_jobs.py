"""Submitted by test_cluster.py: trains job after job in one application."""

import json
import sys

from pyspark.sql import SparkSession

from cos_runtime.api import CaffeOnSpark, Config, DataSource

spark = SparkSession.builder.getOrCreate()
for args in json.loads(sys.argv[1]):
    conf = Config(spark, args)
    CaffeOnSpark(spark).train(DataSource.getSource(conf, True))
spark.stop()
