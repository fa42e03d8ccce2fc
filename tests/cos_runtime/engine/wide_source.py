"""A source of large images, made on the executors, that tells how much memory its rank has."""

import re
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime.sources.image import ImageSource


class Wide(ImageSource):
    """``source`` gray images of 1,000 x 1,000, of which none is like another.

    Leaves the rank's anonymous memory in MiB beside the solver, a line a batch: pages of files, as the spool's, are
    not its.
    """

    def dataframe(self, spark: SparkSession) -> DataFrame:
        image = sf.unhex(sf.repeat(sf.lpad(sf.hex("number"), 8, "0"), 250_000))
        label = (sf.col("number") % 4).cast("int")
        size = [sf.lit(number).alias(name) for name, number in (("channels", 1), ("height", 1000), ("width", 1000))]
        rows = spark.range(int(self.source), numPartitions=8).toDF("number")
        id_ = sf.col("number").cast("string").alias("id")
        return rows.select(id_, label.alias("label"), *size, sf.lit(False).alias("encoded"), image.alias("data"))

    def decode(self, rows, generator):
        found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        with Path(self.folder, "memory").open("a") as file:
            file.write(f"{int(found[1]) // 1024}\n")
        return super().decode(rows, generator)
