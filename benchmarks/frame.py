"""MNIST as one DataFrame that both sides can read: pixels as numbers, for TorchDistributor's loader takes no bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from benchmarks.mnist import SCALE, labels, pixels
from cos_runtime.sources.base import DataSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TABLE = "mnist"


def put(session: SparkSession, partitions: int) -> DataFrame:
    """Cache the training images in Spark's memory as the view ``mnist``: ``id``, ``image`` array<int>, ``label``."""
    given = labels("train")
    flat = pixels("train").reshape(len(given), -1).astype(np.int32)
    images = pa.ListArray.from_arrays(np.arange(len(given) + 1, dtype=np.int32) * flat.shape[1], flat.reshape(-1))
    rows = pa.table({"id": [f"{row:08d}" for row in range(len(given))], "image": images, "label": given})
    frame = session.createDataFrame(rows).repartition(partitions).cache()
    frame.count()
    frame.createOrReplaceTempView(TABLE)
    return frame


class Frame(DataSource):
    """The view's rows, for a ``MemoryData`` layer with ``source_class: "benchmarks.frame.Frame"``."""

    @property
    def batch_size(self) -> int:
        """The layer's."""
        return self.layer.memory_data_param.batch_size

    def check(self) -> None:
        """The benchmark has made the view."""

    def top_shapes(self) -> dict[str, tuple[int, ...]]:
        """[N, 1, 28, 28] and [N]."""
        return {"data": (self.batch_size, 1, 28, 28), "label": (self.batch_size,)}

    def dataframe(self, spark: SparkSession) -> DataFrame:
        """The view."""
        return spark.table(TABLE)

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Scaled pixels, and labels."""
        values = rows.column("image").flatten().to_numpy(zero_copy_only=False)
        data = (values.astype(np.float32) * np.float32(SCALE)).reshape(-1, 1, 28, 28)
        label = rows.column("label").to_numpy(zero_copy_only=False).astype(np.float32)
        return {"data": torch.from_numpy(data), "label": torch.from_numpy(label)}
