"""The command: ``spark-submit cos_runtime/main.py -conf SOLVER -train -test -features BLOBS …``."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from py4j.protocol import Py4JError
from pyspark import SparkConf
from pyspark.sql import SparkSession

from cos_runtime import preflight, storage
from cos_runtime.api import CaffeOnSpark, Config, DataSource
from cos_runtime.config import parse_flags
from cos_runtime.engine import feature_files
from cos_runtime.engine.failures import JobCancelled, RankError, mistakes_told
from cos_runtime.errors import UserError

_USER_ERROR, _FAILURE, _INTERRUPTED = 2, 1, 130
DEFAULTS = {
    # Spark's INFO lines would bury those of the job.
    "spark.log.level": "WARN",
    # Records on their way from the JVM to Python. Spark's default, 64 MB, is more than a processor's caches hold, and
    # the first step would wait for so much.
    "spark.sql.execution.arrow.maxBytesPerBatch": "2m",
}
# For the ranks to end after Ctrl-C.
_STOP_SECONDS = 20.0


def run(args: Sequence[str], on_start: Callable[[CaffeOnSpark], None] = lambda _: None) -> None:
    """Do what the flags say, in the order train, test, features.

    Args:
        args: the flags.
        on_start: takes what does it, for another thread to cancel.

    Raises:
        UserError: before anything is started, where something can be found wrong by then.
    """
    flags = parse_flags(args)
    if not (flags.train or flags.test or flags.features):
        raise UserError("nothing to do: give -train, -test or -features BLOBS")
    _check(Config(None, args))
    spark = _session(f"cos {flags.conf}")
    try:
        conf = Config(spark, args)
        cos = CaffeOnSpark(spark)
        on_start(cos)
        if conf.isFeature:
            feature_files.check(spark, conf.outputPath, conf.outputFormat)
        if conf.isTraining:
            _train(cos, conf)
        if conf.isTest:
            _write_test(conf, cos.test(DataSource.getSource(conf, False)))
        if conf.isFeature:
            _write_features(conf, cos)
    finally:
        spark.stop()


def _session(name: str) -> SparkSession:
    """Spark's session, by our defaults where nobody has set anything else."""
    given, builder = SparkConf(), SparkSession.builder.appName(name)
    for key, value in DEFAULTS.items():
        builder = builder.config(key, given.get(key, value))
    return builder.getOrCreate()


def test_output(conf: Config) -> str:
    """Where the test result goes: ``-output``, or beside it where that is the folder of the features."""
    return f"{conf.outputPath.rstrip('/')}.test.txt" if conf.outputPath and conf.isFeature else conf.outputPath


def _check(conf: Config) -> None:
    """Find what is wrong with the job before Spark is started for it."""
    if conf.isFeature:
        if not conf.outputPath:
            raise UserError("-output is missing: name the folder for the features")
        feature_files.check_format(conf.outputFormat)
        preflight.refuse_existing_output(conf.outputPath)
    if conf.isTest:
        preflight.refuse_existing_output(test_output(conf))
    if conf.isTraining:
        if (conf.isTest or conf.isFeature) and not conf.modelPath:
            raise UserError("-model is missing: name the file for the trained weights, which are then tested")
        preflight.check_training(conf, DataSource.getSource(conf, True), _validations(conf))
    if conf.isTest or conf.isFeature:
        source = DataSource.getSource(conf, False)
        net = preflight.test_net(conf, source, 0)
        preflight.check_blobs(net, [*conf.features, *filter(None, [conf.label])], "-features")
        if not conf.isTraining:
            preflight.check_inference(conf, source, conf.modelPath)
        if conf.outputPath:
            storage.refuse_unwritable(conf.outputPath, "-output")


def _validations(conf: Config) -> list[DataSource]:
    """The sources of interleaved validation, one a test net, where the solver asks for it."""
    solver = conf.solverParameter
    is_wanted = solver.test_interval > 0 and list(solver.test_iter) != [0]
    return [DataSource.getSource(conf, False, i) for i in range(len(conf.test_states))] if is_wanted else []


def _train(cos: CaffeOnSpark, conf: Config) -> None:
    source, validations = DataSource.getSource(conf, True), _validations(conf)
    if validations:
        cos.trainWithValidation(source, validations)
    else:
        cos.train(source)


def _write_test(conf: Config, result: dict[str, list[float]]) -> None:
    lines = "".join(f"{name}: {','.join(f'{value:.7g}' for value in values)}\n" for name, values in result.items())
    print(lines, end="", flush=True)
    if conf.outputPath:
        storage.write_bytes(test_output(conf), lines.encode())


def _write_features(conf: Config, cos: CaffeOnSpark) -> None:
    frame = cos.features(DataSource.getSource(conf, False))
    with mistakes_told():
        feature_files.write(frame, conf.outputPath, conf.outputFormat)
    print(f"Features {', '.join(frame.columns[1:])} written to {conf.outputPath}", flush=True)


def main() -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 a mistake to mend, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # On a thread of its own: Ctrl-C in the middle of a call to Spark's JVM would end in pages of py4j's stack traces.
    job = _Job(sys.argv[1:])
    try:
        job.start()
        job.ended.wait()
    except KeyboardInterrupt:
        job.stop()
        return _INTERRUPTED
    return job.code


class _Job(threading.Thread):
    """The command, and the exit code it came to."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(name="cos-job", daemon=True)
        self.code = _FAILURE
        # And not join(): in Python 3.11 a thread whose join() was interrupted passes for ended.
        self.ended = threading.Event()
        self._flags = args
        self._cos: CaffeOnSpark | None = None
        self._is_told_to_stop = False

    def run(self) -> None:
        """Do what the arguments say, and keep the exit code."""
        try:
            self._run()
        finally:
            self.ended.set()

    def _run(self) -> None:
        try:
            run(self._flags, self._take)
        except UserError as error:
            self._say(str(error))
            self.code = _USER_ERROR
        except RankError as error:
            if not error.is_told:
                self._say(str(error))
            if not error.is_users:
                print(error.trace.rstrip(), file=sys.stderr)
            self.code = _USER_ERROR if error.is_users else _FAILURE
        except JobCancelled:
            self.code = _INTERRUPTED
        except Exception:
            # Once the job is stopped, whatever Spark's JVM answers, or no longer does, is no news.
            if not self._is_told_to_stop:
                raise
        else:
            self.code = 0

    def stop(self) -> None:
        """Stop what runs in Spark and wait for the job's last words."""
        self._is_told_to_stop = True
        # Whoever stopped the job may tell its processes one by one; a few seconds are ours in any case.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # The terminal's Ctrl-C has reached the JVM too; and a context that has just been stopped has lost its own.
        with contextlib.suppress(Py4JError, OSError, AttributeError):
            if self._cos:
                self._cos.cancel()
        self.ended.wait(_STOP_SECONDS)

    def _take(self, cos: CaffeOnSpark) -> None:
        self._cos = cos

    @staticmethod
    def _say(text: str) -> None:
        print(f"error: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
