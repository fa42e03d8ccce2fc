"""What a program on Spark uses: CaffeOnSpark's own API, in Python."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence

from pyspark import SparkContext, StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType

from cos_runtime import preflight, storage
from cos_runtime.caffe.layers.base import registered_elsewhere
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.config import Config
from cos_runtime.engine import inference, recovery, slots
from cos_runtime.engine.failures import JobCancelled, RankError
from cos_runtime.engine.job import TrainingPlan, TrainJob
from cos_runtime.engine.numerics import Numerics
from cos_runtime.engine.report.events import TestPass
from cos_runtime.engine.report.reporters import open_reporters
from cos_runtime.engine.tell import Teller
from cos_runtime.errors import UserError
from cos_runtime.sources.base import DataSource

_LAST_WORDS_SECONDS = 2.0

__all__ = ["CaffeOnSpark", "Config", "DataSource"]


class CaffeOnSpark:
    """Trains, tests and extracts features with Caffe nets in a Spark application.

    Args:
        sc: the Spark context, or session, to run in.

    Example:
        >>> cos = CaffeOnSpark(sc)
        >>> conf = Config(sc, ["-conf", "lenet_solver.prototxt", "-model", "lenet.caffemodel", "-features", "ip1"])
        >>> cos.train(DataSource.getSource(conf, True))
        >>> cos.features(DataSource.getSource(conf, False)).show()
    """

    def __init__(self, sc: SparkContext | SparkSession) -> None:
        self.spark: SparkSession = sc if isinstance(sc, SparkSession) else SparkSession(sc)
        self._teller: Teller | None = None
        self._is_unwanted = False

    def cancel(self) -> None:
        """Stop what another thread of the program has running here: there JobCancelled is raised.

        How a training can be gone on with is told at once, for after Ctrl-C Spark's JVM, which takes a submitted
        program's words to the terminal, ends as well.

        Raises:
            Py4JError, OSError: Spark's JVM is gone already.
        """
        self._is_unwanted = True
        teller = self._teller
        if teller:
            # A report to a store out of reach must not keep Spark from being told.
            last_words = threading.Thread(target=teller.cancelled, name="cos-last-words", daemon=True)
            last_words.start()
            last_words.join(_LAST_WORDS_SECONDS)
        self.spark.sparkContext.cancelAllJobs()

    def train(self, source: DataSource) -> None:
        """Train on a source until the solver's ``max_iter`` and write the model to ``-model``.

        Raises:
            UserError: something is wrong or missing; nothing was started.
            RankError: a rank failed.
            JobCancelled: the job was stopped from outside.
        """
        self._train(source, ())

    def trainWithValidation(  # noqa: N802 - the original's spelling
        self, source: DataSource, validation: DataSource | Sequence[DataSource]
    ) -> DataFrame:
        """Train with validation every ``test_interval`` iterations, over ``test_iter`` batches of ``validation``.

        Args:
            source: the records to train on.
            validation: those of the TEST net; of each one, in order, where the solver has several.

        Returns:
            A row a validation pass, in order, with an ``array<float>`` for each output blob of the TEST net. With
            several TEST nets a column ``test_net`` has the number, and blobs of other nets are null.
        """
        sources = [validation] if isinstance(validation, DataSource) else list(validation)
        passes = self._train(source, sources)
        conf = _conf_of(source)
        outputs = [preflight.test_net(conf, each, number).outputs for number, each in enumerate(sources)]
        names = list(dict.fromkeys(itertools.chain.from_iterable(outputs)))
        is_one = len(sources) == 1
        columns = [StructField(name, ArrayType(FloatType(), False), not is_one) for name in names]
        rows = [(done.net_index, *(done.outputs.get(name) for name in names)) for done in passes]
        schema = StructType([StructField("test_net", IntegerType(), False), *columns])
        frame = self.spark.createDataFrame(rows, schema)
        return frame.drop("test_net") if is_one else frame

    def test(self, source: DataSource) -> dict[str, list[float]]:
        """The mean over all records of every output blob of the TEST net, with the weights of ``-model``."""
        conf = _conf_of(source)
        net, content = preflight.check_inference(conf, source, conf.modelPath)
        self._describe(f"cos test: {net.name}")
        return inference.test(self.spark, self._predictor(conf, source, net, content), net.outputs)

    def features(self, source: DataSource) -> DataFrame:
        """The blobs named by ``-features`` (and ``-label``) for every record, with the weights of ``-model``.

        Returns:
            ``SampleID`` string and an ``array<float>`` a blob, in the records' order. It is computed when it is used:
            persist it where it is used more than once.
        """
        conf = _conf_of(source)
        if not conf.features:
            raise UserError("-features is missing: name the blobs to extract")
        blobs = [*conf.features, *([conf.label] if conf.label and conf.label not in conf.features else [])]
        net, content = preflight.check_inference(conf, source, conf.modelPath)
        preflight.check_blobs(net, blobs, "-features")
        self._describe(f"cos features: {', '.join(blobs)} of {net.name}")
        return inference.features(self.spark, self._predictor(conf, source, net, content), blobs)

    @staticmethod
    def floats2doubleUDF(column: Column) -> Column:  # noqa: N802 - the original's spelling
        """The first value of an ``array<float>`` as a double: a label, say."""
        return column[0].cast("double")

    @staticmethod
    def floats2doublesUDF(column: Column) -> Column:  # noqa: N802 - the original's spelling
        """An ``array<float>`` as the dense vector of doubles that Spark ML takes for features."""
        from pyspark.ml.functions import array_to_vector  # noqa: PLC0415 - Spark ML is a second to import

        return array_to_vector(column.cast("array<double>"))

    def _train(self, source: DataSource, validations: Sequence[DataSource]) -> list[TestPass]:
        self._is_unwanted = False
        conf = _conf_of(source)
        if validations and len(validations) != len(conf.test_states):
            raise UserError(
                f"{len(validations)} sources of validation are given and the solver has {len(conf.test_states)} test "
                "nets: give one for each"
            )
        is_local = str(self.spark.sparkContext.master).startswith("local[")
        plan = preflight.check_training(conf, source, validations, is_local=is_local)
        policy = recovery.Policy(
            conf.max_restarts, conf.restart_wait, f"-clusterSize {conf.clusterSize} x -devices {conf.devices}"
        )
        slots.wait_for(self.spark, conf.ranks, policy.asked)
        written = conf.modelPath or conf.snapshot_prefix
        job = _job(conf, source, validations, plan)
        with (
            open_reporters(storage.parent(written) if written else None) as reporters,
            self._dealing(conf, job) as rows,
        ):
            teller = self._teller = Teller(job, plan, reporters)
            if self._is_unwanted:  # since before there was a teller
                teller.cancelled()
            try:
                recovery.run(self.spark, job, plan, lambda: rows(source, validations), teller, policy=policy)
            except JobCancelled:
                teller.cancelled()
                raise
            except RankError as error:
                teller.failed(str(error))
                error.is_told = True
                raise
            finally:
                self._teller = None
            teller.finish()
            return teller.passes

    @contextlib.contextmanager
    def _dealing(
        self, conf: Config, job: TrainJob
    ) -> Iterator[Callable[[DataSource, Sequence[DataSource]], DataFrame]]:
        """A function that deals the records to the ranks; what it keeps on Spark's disks goes at the end."""
        kept: list[DataFrame] = []
        shuffle = job.seed if job.shuffle else None

        def deal(source: DataSource, validations: Sequence[DataSource]) -> DataFrame:
            rows = (
                source.dealt_after(validations, self.spark, conf.ranks, shuffle)
                if validations
                else source.dealt(self.spark, conf.ranks, shuffle)
            )
            if conf.isRddPersistent:
                kept.append(rows.persist(StorageLevel.DISK_ONLY))
            return rows

        try:
            yield deal
        finally:
            for rows in kept:
                rows.unpersist()

    def _predictor(self, conf: Config, source: DataSource, net: Net, content: bytes) -> inference.Predictor:
        solver = conf.solverParameter
        return inference.Predictor(
            net=conf.netParam,
            state=conf.test_state,
            shapes=source.top_shapes(),
            source=source,
            weights=self.spark.sparkContext.broadcast(content),
            weights_path=conf.modelPath,
            solver_mode=solver.solver_mode if solver.HasField("solver_mode") else None,
            numerics=Numerics(conf.memory_format),
            reads_in_order=net.reads_in_order,
            layers=registered_elsewhere(conf.netParam),
        )

    def _describe(self, text: str) -> None:
        self.spark.sparkContext.setJobDescription(text)


def _conf_of(source: DataSource) -> Config:
    if not isinstance(source.conf, Config):
        raise UserError("the source has no Config: make it by DataSource.getSource(conf, isTraining)")
    return source.conf


def _job(conf: Config, source: DataSource, validations: Sequence[DataSource], plan: TrainingPlan) -> TrainJob:
    solver = SolverParameter()
    solver.CopyFrom(conf.solverParameter)
    # A run that goes on from another draws the numbers that the other would have drawn.
    seed = secrets.randbits(31) if plan.seed is None else plan.seed
    return TrainJob(
        solver=solver,
        net=conf.netParam,
        source=source,
        validations=tuple(validations),
        train_shapes=source.top_shapes(),
        test_shapes=tuple(each.top_shapes() for each in validations),
        train_state=conf.train_state,
        test_states=tuple(conf.test_states),
        ranks=conf.ranks,
        connection=conf.connection,
        seed=solver.random_seed if solver.random_seed >= 0 else seed,
        prefix=conf.snapshot_prefix,
        checkpoints=conf.checkpoints,
        aim=plan.aim,
        corrupt_share=conf.corrupt_share,
        timeout=conf.timeout,
        numerics=Numerics(conf.memory_format, conf.precision),
        local_steps=conf.local_steps,
        shuffle=conf.shuffle,
        layers=registered_elsewhere(conf.netParam),
    )
