"""Submitted by tests: trains job after job in one application."""

import json
import sys

from pyspark.sql import SparkSession

from cos_runtime.api import CaffeOnSpark, Config, DataSource

spark = SparkSession.builder.getOrCreate()
for args in json.loads(sys.argv[1]):
    conf = Config(spark, args)
    source = DataSource.getSource(conf, True)
    if conf.solverParameter.test_interval:
        CaffeOnSpark(spark).trainWithValidation(source, DataSource.getSource(conf, False))
    else:
        CaffeOnSpark(spark).train(source)
spark.stop()
