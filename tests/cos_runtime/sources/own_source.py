"""A source that a user might write."""

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime.sources.image import ImageSource
from cos_runtime.sources.lmdb import LMDB


class Shades(ImageSource):
    """``source`` gray images of one shade each, labelled by it."""

    def dataframe(self, spark: SparkSession) -> DataFrame:
        height, width = self.layer.memory_data_param.height, self.layer.memory_data_param.width
        shade = sf.col("number").cast("int")
        return (
            spark.range(int(self.source), numPartitions=3)
            .toDF("number")
            .select(
                sf.concat(sf.lit("shade "), sf.col("number").cast("string")).alias("id"),
                shade.alias("label"),
                sf.lit(1).alias("channels"),
                sf.lit(height).alias("height"),
                sf.lit(width).alias("width"),
                sf.lit(False).alias("encoded"),
                sf.unhex(sf.repeat(sf.lpad(sf.hex("number"), 2, "0"), height * width)).alias("data"),
            )
        )


class Darker(LMDB):
    """An LMDB whose images are seen at half their brightness."""

    def decode(self, rows, generator: np.random.Generator):
        return {name: blob / 2 if name == "data" else blob for name, blob in super().decode(rows, generator).items()}


class Even(LMDB):
    """The records of an LMDB with even labels."""

    def dataframe(self, spark: SparkSession) -> DataFrame:
        return super().dataframe(spark).where("label % 2 = 0")


NOT_A_SOURCE = "something else"
