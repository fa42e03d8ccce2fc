"""Caffe's LMDB databases as a source of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cos_runtime.caffe import datum
from cos_runtime.errors import UserError
from cos_runtime.sources import lmdb_file, lmdb_frame
from cos_runtime.sources.base import DataSource
from cos_runtime.sources.image import ImageSource, Shape
from cos_runtime.sources.lmdb_frame import local

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class LMDB(ImageSource):
    """Images in an LMDB of Caffe Datums: the folder that ``convert_imageset`` and its like write.

    A local one is opened in place, on every host, and never written to; a remote one (``s3://``, ``hdfs://``) is
    fetched once a host. The key of a record is its ``id``. ``rand_skip`` is not used: records are dealt in order.
    """

    def check(self) -> None:
        """Refuse an LMDB that is missing, empty, damaged, too small or unfit for the layer, with a UserError."""
        if self.lmdb_partitions is not None and self.lmdb_partitions < 1:
            raise UserError(f"lmdb_partitions is {self.lmdb_partitions}: give 1 or more")
        records = self.count()
        lmdb_file.first_datum(local(self.source_path))
        super().check()
        if self.is_train and records < self.batch_size:
            raise self._refusal(
                f"has batch_size {self.batch_size}, more than the {records} records of LMDB {self.source_path}: "
                f"lower batch_size or give more records"
            )

    def count(self) -> int:
        """The number of records."""
        return lmdb_file.count(local(self.source_path))

    def first_shape(self, channels: int | None) -> Shape:
        """The shape [C, H, W] of the first record."""
        path = self.source_path
        image = datum.to_array(lmdb_file.first_datum(local(path)), channels, f"the first record of LMDB {path}")
        found: Shape = image.shape
        return found

    def dataframe(self, spark: SparkSession) -> DataFrame:
        """All records in the order of their keys, a range of them a partition.

        The ranges are ``-lmdb_partitions``, or as many as Spark has cores.
        """
        parts = self.lmdb_partitions or spark.sparkContext.defaultParallelism
        return lmdb_frame.in_ranges(spark, self.source_path, parts)

    def dealt(self, spark: SparkSession, ranks: int, shuffle: int | None = None) -> DataFrame:
        """All records as cards are dealt, in order straight from the file: ``p`` is in partition ``p % ranks``."""
        if shuffle is not None or not self._is_plain:
            return super().dealt(spark, ranks, shuffle)
        return lmdb_frame.dealt(spark, [self.source_path], ranks)

    def dealt_after(
        self, validations: Sequence[DataSource], spark: SparkSession, ranks: int, shuffle: int | None = None
    ) -> DataFrame:
        """As :meth:`dealt`, with the records of each of ``validations``, dealt too, before those of this source."""
        first, *others = validations
        if not others and shuffle is None and isinstance(first, LMDB) and self._is_plain and first._is_plain:
            return lmdb_frame.dealt(spark, [first.source_path, self.source_path], ranks)
        return super().dealt_after(validations, spark, ranks, shuffle)

    @property
    def _is_plain(self) -> bool:
        """Whether the records are those of the file: a subclass may have put its own in :meth:`dataframe`."""
        return type(self).dataframe is LMDB.dataframe
