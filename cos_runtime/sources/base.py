"""What every source of records is: a Spark DataFrame, and the way from its rows to a net's blobs."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter
from cos_runtime.errors import UserError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# CaffeOnSpark's class names, as people's prototxt files have them.
SOURCE_CLASSES = {"com.yahoo.ml.caffe.LMDB": "cos_runtime.sources.lmdb.LMDB"}


class SourceConf(Protocol):
    """What a source may ask of the job's configuration."""

    netParam: NetParameter  # noqa: N815 - the original's spelling
    resize: bool
    lmdb_partitions: int | None
    timeout: float

    @property
    def solver_folder(self) -> str:
        """The folder of the solver file, against which relative paths resolve."""

    @property
    def train_data_layer_id(self) -> int:
        """Index in ``netParam.layer`` of the data layer of the TRAIN net."""

    def data_layer_of_test(self, number: int) -> int:
        """Index in ``netParam.layer`` of the data layer of a TEST net."""


class Decoder(Protocol):
    """Makes blobs of rows, as :meth:`DataSource.decode` does."""

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """The top blobs of the data layer for these rows."""


class DataSource(ABC):
    """Records for one data layer of a net.

    The extension point: a subclass of one's own is named in the data layer by its Python path
    (``source_class: "mypackage.mymodule.MySource"``) and gives :meth:`check`, :meth:`dataframe`,
    :meth:`top_shapes` and :meth:`decode`. An instance is pickled to the executors, so it holds plain data only: no
    session, no open file.

    Args:
        conf: the job's configuration.
        layer_id: index of the data layer in ``conf.netParam.layer``.
        is_train: whether the records train the net (a crop is then random) or test it.
    """

    def __init__(self, conf: SourceConf, layer_id: int, is_train: bool) -> None:
        self.conf = conf
        self.layer: LayerParameter = conf.netParam.layer[layer_id]
        self.is_train = is_train
        self.folder = conf.solver_folder
        self.resize = conf.resize
        self.lmdb_partitions = conf.lmdb_partitions

    def __getstate__(self) -> dict[str, Any]:
        # The configuration stays on the driver.
        return {name: value for name, value in self.__dict__.items() if name != "conf"}

    @staticmethod
    def getSource(  # noqa: N802 - the original's spelling
        conf: SourceConf,
        isTraining: bool,  # noqa: N803
        test_net: int = 0,
    ) -> DataSource:
        """The source that the net's data layer names by ``source_class``, checked.

        Args:
            conf: the job's configuration.
            isTraining: whether the TRAIN net's records are asked for.
            test_net: the number of the TEST net otherwise, where the solver has several.

        Raises:
            UserError: the class is missing, unknown or no DataSource, or its data cannot be read.
        """
        layer_id = conf.train_data_layer_id if isTraining else conf.data_layer_of_test(test_net)
        source = source_class(conf.netParam.layer[layer_id])(conf, layer_id, isTraining)
        source.check()
        return source

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Records a rank takes in one forward pass."""

    @abstractmethod
    def check(self) -> None:
        """Refuse data that is missing, empty, damaged or of another format with a UserError, on the driver."""

    @abstractmethod
    def top_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each top blob of the data layer, batch axis first."""

    @abstractmethod
    def dataframe(self, spark: SparkSession) -> DataFrame:
        """All records in order, read in parallel; the first column is ``id``, a string."""

    def dealt(self, spark: SparkSession, ranks: int, shuffle: int | None = None) -> DataFrame:
        """All records as cards are dealt: record ``p`` is in partition ``p % ranks``, each partition in order.

        So step ``i`` of ``ranks`` ranks with batch ``B`` sees the very records that step ``i`` of one
        rank with batch ``ranks * B`` sees.

        Args:
            shuffle: the seed of a random order of all records; None keeps theirs.
        """
        from cos_runtime.sources.deal import deal  # noqa: PLC0415 - pyspark is needed only where a session is

        return deal(self.dataframe(spark), ranks, shuffle)

    def dealt_after(
        self, validations: Sequence[DataSource], spark: SparkSession, ranks: int, shuffle: int | None = None
    ) -> DataFrame:
        """As :meth:`dealt`, with the records of each of ``validations``, dealt too, before those of this source.

        A column ``deal.SUBSET`` tells them apart.
        """
        from cos_runtime.sources.deal import deal_all  # noqa: PLC0415 - pyspark is needed only where a session is

        return deal_all([each.dataframe(spark) for each in (*validations, self)], ranks, shuffle)

    def count(self) -> int | None:
        """The number of records where it is known without reading them all, else None."""
        return None

    @abstractmethod
    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """The top blobs of the data layer for these rows (any number of them), transformed, float32.

        Args:
            rows: rows of :meth:`dataframe`.
            generator: for random crops and mirrors, seeded a rank.
        """


def source_class(layer: LayerParameter) -> type[DataSource]:
    """The class named by a data layer's ``source_class``; a stock ``Data`` layer over LMDB needs none."""
    name = layer.source_class
    if not name and layer.type == "Data" and layer.data_param.backend == layer.data_param.LMDB:
        name = "com.yahoo.ml.caffe.LMDB"
    if not name:
        raise UserError(
            f'layer "{layer.name}" ({layer.type}) has no source_class: name the source of its records, '
            f'for example source_class: "com.yahoo.ml.caffe.LMDB"'
        )
    module_name, _, class_name = SOURCE_CLASSES.get(name, name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        # The module is the user's: its import may raise anything.
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f'layer "{layer.name}": source_class "{name}" cannot be imported ({cause}): give one of '
            f"{', '.join(SOURCE_CLASSES)} or the Python path of a class of your own, module included"
        ) from error
    if not (isinstance(found, type) and issubclass(found, DataSource)):
        raise UserError(f'layer "{layer.name}": source_class "{name}" is not a subclass of DataSource')
    return found
