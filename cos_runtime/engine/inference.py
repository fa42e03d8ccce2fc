"""Testing and feature extraction: an ordinary ``mapInArrow`` over every executor; ranks do not meet."""

from __future__ import annotations

import itertools
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from pyspark import Broadcast
from pyspark.sql import DataFrame, Row, SparkSession

from cos_runtime.caffe import weights
from cos_runtime.caffe.layers import LAYERS, Layer, Shape
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, NetParameter, NetState, SolverParameter
from cos_runtime.engine import workers
from cos_runtime.engine.by_record import ByRecord
from cos_runtime.engine.failures import mistakes_told
from cos_runtime.engine.feed import Feed
from cos_runtime.engine.numerics import Numerics
from cos_runtime.engine.spool import rebatch
from cos_runtime.errors import UserError
from cos_runtime.sources.base import DataSource

SAMPLE_ID = "SampleID"

_TEST_SCHEMA = "blob string, sums array<double>, records long"


@dataclass(frozen=True)
class Predictor:
    """A TEST net with its weights, pickled into Spark's tasks.

    Attributes:
        net: the whole net, with the layers of both phases.
        state: level and stages of the TEST net.
        shapes: shapes of the tops of the data layer.
        source: the records.
        weights: content of the weights file.
        weights_path: where it came from.
        solver_mode: CPU, GPU, or None where the solver does not say.
        numerics: how the net is computed.
        reads_in_order: whether a layer of the net reads records itself, in the order of the source's.
        layers: classes of layers that are the user's own, by type.
        key: tells this predictor from every other one.
    """

    net: NetParameter
    state: NetState
    shapes: dict[str, Shape]
    source: DataSource
    weights: Broadcast[bytes]
    weights_path: str
    solver_mode: int | None
    numerics: Numerics
    reads_in_order: bool = False
    layers: dict[str, type[Layer]] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def load(self) -> tuple[Net, ByRecord, torch.device]:
        """The net on this task's device; a Python worker builds it once and keeps it for its later tasks."""
        if self.key not in _loaded:
            while len(_loaded) >= _MOST_LOADED:
                _loaded.popitem(last=False)
            LAYERS.update(self.layers)
            net = build(self.net, self.state, self.shapes)
            net.copy_weights(weights.parse(self.weights.value, self.weights_path), self.weights_path)
            self.numerics.prepare(net, device_of_task(self.solver_mode))
            _loaded[self.key] = net, ByRecord(net, self.source.batch_size)
        net, by_record = _loaded[self.key]
        return net, by_record, next(net.parameters(), torch.zeros(())).device


_MOST_LOADED = 2
_loaded: OrderedDict[str, tuple[Net, ByRecord]] = OrderedDict()


def build(param: NetParameter, state: NetState, shapes: dict[str, Shape]) -> Net:
    """The TEST net of these layers."""
    return Net(param, TEST, shapes, level=state.level, stages=state.stage)


def device_of_task(solver_mode: int | None) -> torch.device:
    """The GPU that Spark gave to this task, else the first one; the CPU where there is none or the solver says so."""
    if solver_mode == SolverParameter.CPU or not torch.cuda.is_available():
        return torch.device("cpu")
    from pyspark import TaskContext  # noqa: PLC0415 - only a task has one

    context = TaskContext.get()
    resources = context.resources() if context else {}
    return torch.device("cuda", int(resources["gpu"].addresses[0]) if "gpu" in resources else 0)


def _records(spark: SparkSession, predictor: Predictor) -> DataFrame:
    rows = predictor.source.dataframe(spark)
    # Else each task's layer would begin its file anew.
    return rows.coalesce(1) if predictor.reads_in_order else rows


def features(spark: SparkSession, predictor: Predictor, blobs: list[str]) -> DataFrame:
    """A row a record, in the records' order: ``SampleID`` and an ``array<float>`` for each blob.

    A blob with one value for the whole batch, like an accuracy, gives that value to each record of the batch.
    """
    timeout = predictor.source.conf.timeout
    schema = f"{SAMPLE_ID} string, " + ", ".join(f"`{name}` array<float>" for name in blobs)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for ids, by_record, outputs in _outputs(predictor, batches, blobs, timeout):
            columns = [_array(by_record.rows(name, outputs[name], len(ids))) for name in blobs]
            yield pa.RecordBatch.from_arrays([ids, *columns], [SAMPLE_ID, *blobs])

    rows = _records(spark, predictor)
    with workers.with_torch(spark):
        return rows.mapInArrow(task, schema)


def test(spark: SparkSession, predictor: Predictor, outputs: list[str]) -> dict[str, list[float]]:
    """The mean over all records of every output blob of the TEST net. The predictor is used up.

    Raises:
        UserError: the source has no records, or a damaged one.
    """
    timeout = predictor.source.conf.timeout

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: dict[str, torch.Tensor] = {}
        records = 0
        for ids, by_record, values in _outputs(predictor, batches, outputs, timeout):
            records += len(ids)
            for name, blob in values.items():
                part = by_record.sums(name, blob, len(ids))
                sums[name] = sums[name] + part if name in sums else part
        yield pa.RecordBatch.from_pydict(
            {
                "blob": pa.array(sums, pa.string()),
                "sums": pa.array([part.tolist() for part in sums.values()], pa.list_(pa.float64())),
                "records": pa.array([records] * len(sums), pa.int64()),
            }
        )

    rows = _records(spark, predictor)
    with workers.with_torch(spark):
        parts = rows.mapInArrow(task, _TEST_SCHEMA)
    totals: dict[str, np.ndarray] = {}
    records = dict.fromkeys(outputs, 0)
    for row in _collected(parts, predictor):
        totals[row.blob] = totals.get(row.blob, np.zeros(len(row.sums))) + np.array(row.sums)
        records[row.blob] += row.records
    if outputs and not totals:
        raise UserError(f'layer "{predictor.source.layer.name}": its source has no records: there is nothing to test')
    return {name: (totals[name] / records[name]).tolist() for name in outputs}


def _collected(parts: DataFrame, predictor: Predictor) -> list[Row]:
    try:
        with mistakes_told():
            return parts.collect()
    finally:
        # Else a file of the weights' size stays with Spark for as long as the application runs.
        predictor.weights.destroy()


def _outputs(
    predictor: Predictor, batches: Iterator[pa.RecordBatch], wanted: list[str], timeout: float
) -> Iterator[tuple[pa.Array, ByRecord, dict[str, torch.Tensor]]]:
    """Ids and blobs of batch after batch, with what takes them apart; the last one is as small as it is."""
    net, by_record, device = predictor.load()
    ids: list[pa.Array] = []

    def noted(rows: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            ids.append(batch.column("id"))
            yield batch

    rows = rebatch(batches, itertools.repeat(predictor.source.batch_size))
    with Feed(noted(rows), predictor.source, [0], timeout=timeout) as feed, torch.inference_mode():
        for blobs in feed:
            yield ids.pop(0), by_record, net(predictor.numerics.blobs(blobs, device), wanted)


def _array(rows: torch.Tensor) -> pa.Array:
    """The rows of a matrix as lists."""
    records, width = rows.shape
    offsets = pa.array(np.arange(0, (records + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(rows.float().cpu().numpy().reshape(-1), pa.float32()))
