"""The job's configuration: CaffeOnSpark's flags, the solver and the net they name."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NoReturn

from pyspark import SparkContext
from pyspark.sql import SparkSession

from cos_runtime import storage
from cos_runtime.caffe import prototxt, solver_nets
from cos_runtime.caffe.layers import LAYERS
from cos_runtime.caffe.layers.data import Input
from cos_runtime.caffe.phase import is_included
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, NetState, Phase, SolverParameter
from cos_runtime.engine.job import Checkpoints
from cos_runtime.engine.network import CONNECTIONS
from cos_runtime.engine.numerics import MEMORY_FORMATS, PRECISIONS
from cos_runtime.errors import UserError

# The least value of each flag that is a number.
_LEAST = dict.fromkeys(("devices", "clusterSize", "lmdb_partitions", "checkpoints", "timeout"), 1) | dict.fromkeys(
    (
        "checkpoint_seconds",
        "checkpoint_iterations",
        "max_restarts",
        "restart_wait",
        "corrupt_share",
        "patience",
        "local_steps",
    ),
    0,
)

# Longer ones, in seconds, are more than the clocks of threads and of torch take.
_LONGEST = 1e8

# The values of each flag that takes one of a few.
_CHOICES = {"connection": CONNECTIONS, "memory_format": [*MEMORY_FORMATS], "precision": [*PRECISIONS]}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def flag_parser() -> argparse.ArgumentParser:
    """The command's flags, with the original's names."""
    parser = _Parser(
        prog="cos_runtime/main.py",
        description="Train, test and extract features with a Caffe solver on Spark.",
        epilog="Relative paths count from the solver file's folder. Paths may be local, hdfs:// or s3://.",
        add_help=False,
    )
    add = parser.add_argument
    add("-help", "--help", "-h", action="help", help="show this and exit")
    add("-conf", metavar="FILE", help="solver prototxt (required)")
    add("-train", action="store_true", help="train, with interleaved validation if the solver has test_interval")
    add("-test", action="store_true", help="test the model on the whole TEST source")
    add("-features", "-feature", metavar="BLOB,…", help="extract these blobs of the TEST net")
    add("-label", metavar="BLOB", help="blob added to the features as the label")
    add("-model", metavar="FILE", help="training: the final weights; testing and features: the weights to use")
    add("-output", metavar="PATH", help="folder for the features, file for the test result")
    add("-outputFormat", default="json", metavar="FORMAT", help="of the features: json (default), parquet, …")
    add("-devices", type=int, default=1, metavar="N", help="ranks an executor (default 1), one a GPU or CPU slot")
    add("-connection", default="ethernet", metavar="KIND", help="ethernet (default), infiniband or efa")
    add("-clusterSize", type=int, metavar="N", help="executors that train (default spark.executor.instances, else 1)")
    add("-persistent", action="store_true", help="keep the training data on Spark's disks")
    add("-snapshot", metavar="FILE", help=".solverstate to resume from; needs -weights")
    add("-weights", metavar="FILE,…", help=".caffemodel to begin with: fine-tuning alone, resuming with -snapshot")
    add("-checkpoint_seconds", type=float, default=60.0, metavar="S", help="between automatic checkpoints (default 60)")
    add("-checkpoint_iterations", type=int, default=0, metavar="N", help="between automatic checkpoints (default none)")
    add("-checkpoints", type=int, default=2, metavar="N", help="automatic checkpoints that are kept (default 2)")
    add("-max_restarts", type=int, default=3, metavar="N", help="of training whose executors or ranks die (default 3)")
    add("-restart_wait", type=float, default=300.0, metavar="S", help="longest wait for task slots (default 300)")
    add("-timeout", type=float, default=300.0, metavar="S", help="longest silence of a rank (default 300)")
    add("-corrupt_share", type=float, default=0.01, metavar="S", help="damaged records left out at most (default 0.01)")
    add("-best", metavar="BLOB", help="keep the weights with the best validation by this output, as MODEL_best")
    add("-patience", type=int, default=0, metavar="N", help="end after N validations without a better -best")
    add("-shuffle", action="store_true", help="train on the records in random order, another one each time round")
    add(
        "-local_steps", type=int, default=0, metavar="N", help="SparkNet's way: a mean of weights by the driver every N"
    )
    add("-memory_format", default="channels_last", metavar="FORMAT", help="channels_last (default) or contiguous")
    add("-precision", default="float32", metavar="KIND", help="of products: float32 (default), bfloat16, float16")
    add("-resize", action="store_true", help="resize images to the data layer's height and width")
    add("-lmdb_partitions", type=int, metavar="N", help="parts in which an LMDB is read (default: task slots)")
    return parser


def parse_flags(args: Sequence[str]) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: a flag is unknown (the nearest is named) or a value is missing or wrong.
    """
    parser = flag_parser()
    # argparse itself would take any beginning of a single-dash flag.
    known = list(parser._option_string_actions)
    for arg in args:
        if arg.startswith("-") and arg not in known and not _is_number(arg):
            near = difflib.get_close_matches(arg, known, n=1, cutoff=0.0)
            raise UserError(f"unknown flag {arg}: did you mean {near[0]}? (-help lists them all)")
    flags, rest = parser.parse_known_args(args)
    if rest:
        raise UserError(f'unexpected argument "{rest[0]}": every value follows its flag (-help lists the flags)')
    _refuse_values(flags)
    if flags.patience and not flags.best:
        raise UserError("-patience needs -best, the output of the TEST net that is to become better")
    if flags.snapshot and not flags.weights:
        raise UserError("-snapshot needs -weights, the .caffemodel that was written with it")
    return flags


def _refuse_values(flags: argparse.Namespace) -> None:
    """Refuse numbers out of their range and words that a flag does not take."""
    for name, least in _LEAST.items():
        value = getattr(flags, name)
        if value is not None and not value >= least:  # as not-a-number is not either
            raise UserError(f"-{name} is {value:g}: it must be {least} or more")
    if flags.timeout > _LONGEST:
        raise UserError(f"-timeout is {flags.timeout:g}: it must be {_LONGEST:.0f} s or less")
    for name, choices in _CHOICES.items():
        if getattr(flags, name) not in choices:
            raise UserError(f'-{name} is "{getattr(flags, name)}": use one of {", ".join(choices)}')


class Config:
    """The flags of a job, with the solver and the net read and checked.

    Args:
        sc: the Spark context (or session); None where none is started yet.
        args: command-line arguments, or a mapping of flag names (with or without the dash) to values; a
            switch is on if its value is true, or the string ``"true"``; ``"false"`` and ``""`` leave it off.

    Raises:
        UserError: a flag, the solver or the net is wrong or missing.
    """

    def __init__(self, sc: SparkContext | SparkSession | None, args: Sequence[str] | Mapping[str, object] = ()) -> None:
        flags = parse_flags(_as_list(args) if isinstance(args, Mapping) else args)
        if not flags.conf:
            raise UserError("-conf is missing: give the solver prototxt")
        self.protoFile: str = storage.resolve(flags.conf, ".")
        self.solverParameter: SolverParameter = prototxt.read_solver(self.protoFile)
        self._nets = solver_nets.find(self.solverParameter, self._read, self.protoFile)
        self.netParam: NetParameter = self._nets.net
        self.isTraining: bool = flags.train
        self.isTest: bool = flags.test
        self.features: list[str] = list(dict.fromkeys(_listed(flags.features)))
        self.isFeature: bool = bool(self.features)
        self.label: str = flags.label or ""
        self.modelPath: str = self._resolve(flags.model)
        self.outputPath: str = self._resolve(flags.output)
        self.outputFormat: str = flags.outputFormat
        self.devices: int = flags.devices
        self.connection: str = flags.connection
        self.clusterSize: int = flags.clusterSize or _executors(sc)
        self.isRddPersistent: bool = flags.persistent
        self.snapshotStateFile: str = self._resolve(flags.snapshot)
        # Several stand in the solver, or with commas between.
        weights = _listed(flags.weights or ",".join(self.solverParameter.weights))
        self.snapshotModelFile: str = ",".join(map(self._resolve, weights))
        self.checkpoint_seconds: float = flags.checkpoint_seconds
        self.checkpoint_iterations: int = flags.checkpoint_iterations
        self.checkpoints_kept: int = flags.checkpoints
        self.best: str = flags.best or ""
        self.patience: int = flags.patience
        self.max_restarts: int = flags.max_restarts
        self.restart_wait: float = flags.restart_wait
        self.timeout: float = flags.timeout
        self.corrupt_share: float = flags.corrupt_share
        self.shuffle: bool = flags.shuffle
        self.local_steps: int = flags.local_steps
        self.memory_format: str = flags.memory_format
        self.precision: str = flags.precision
        self.resize: bool = flags.resize
        self.lmdb_partitions: int | None = flags.lmdb_partitions

    @property
    def solver_folder(self) -> str:
        """The folder of the solver file, against which relative paths resolve."""
        return storage.parent(self.protoFile)

    @property
    def ranks(self) -> int:
        """How many ranks train together."""
        return self.clusterSize * self.devices

    @property
    def snapshot_prefix(self) -> str:
        """Path or URL before ``_iter_N`` in the names of snapshots; empty for none.

        As in Caffe, snapshots have the solver file's name where no prefix is given, or that of a folder. A relative
        prefix counts from the model's folder where a model is named. That model is the only result of a solver that
        says nothing of snapshots.
        """
        given, name = self.solverParameter.snapshot_prefix, PurePosixPath(self.protoFile).stem
        if not (given or self.solverParameter.snapshot) and self.modelPath:
            return ""
        folder = storage.parent(self.modelPath) if self.modelPath else self.solver_folder
        prefix = storage.resolve(given or name, folder)
        is_folder = given.endswith("/") or bool(given and storage.is_folder(prefix))
        return storage.resolve(name, prefix) if is_folder else prefix

    @property
    def best_path(self) -> str:
        """Where the weights with the best validation go; empty where none are kept."""
        suffix = ".h5" if self.solverParameter.snapshot_format == SolverParameter.HDF5 else ""
        return f"{self._own_prefix}_best.caffemodel{suffix}" if self.best else ""

    @property
    def checkpoints(self) -> Checkpoints:
        """The snapshots that the job makes on its own."""
        seconds, iterations = self.checkpoint_seconds, self.checkpoint_iterations
        prefix = f"{self._own_prefix}_checkpoint" if seconds or iterations else ""
        return Checkpoints(prefix, seconds, iterations, self.checkpoints_kept)

    @property
    def _own_prefix(self) -> str:
        """Path or URL that what the job keeps on its own begins with: the solver's prefix, or else the model's name."""
        is_by_model = self.modelPath and not self.solverParameter.snapshot_prefix
        return _without_suffix(self.modelPath) if is_by_model else self.snapshot_prefix

    @property
    def train_state(self) -> NetState:
        """Level and stages of the TRAIN net."""
        return self._nets.train

    @property
    def test_states(self) -> Sequence[NetState]:
        """Level and stages of each TEST net."""
        return self._nets.tests

    @property
    def test_state(self) -> NetState:
        """Level and stages of the first TEST net, which ``-test`` and ``-features`` are about."""
        return self.test_states[0]

    @property
    def train_data_layer_id(self) -> int:
        """Index in ``netParam.layer`` of the data layer of the TRAIN net."""
        return self._data_layer_id(self.train_state)

    @property
    def test_data_layer_id(self) -> int:
        """Index in ``netParam.layer`` of the data layer of the first TEST net."""
        return self.data_layer_of_test(0)

    def data_layer_of_test(self, number: int) -> int:
        """Index in ``netParam.layer`` of the data layer of a TEST net."""
        return self._data_layer_id(self.test_states[number])

    def _data_layer_id(self, state: NetState) -> int:
        for index, layer in enumerate(self.netParam.layer):
            kind = LAYERS.get(layer.type)
            is_data = bool(layer.source_class) or (kind is not None and kind.is_source and kind is not Input)
            if is_data and is_included(layer, state):
                return index
        phase = Phase.Name(state.phase)
        raise UserError(
            f'net "{self.netParam.name}" has no data layer for the phase {phase}: give it one with a source_class, '
            f"and include {{ phase: {phase} }} if the other phase has its own"
        )

    def _resolve(self, path: str | None) -> str:
        return storage.resolve(path, self.solver_folder) if path else ""

    def _read(self, path: str) -> NetParameter:
        return prototxt.read_net(self._resolve(path))


def _listed(names: str | None) -> list[str]:
    """The names between the commas of a list."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _without_suffix(path: str) -> str:
    return path.removesuffix(".h5").removesuffix(".caffemodel")


def _as_list(flags: Mapping[str, object]) -> list[str]:
    """Command-line arguments from flag names and values."""
    switches = {option for action in flag_parser()._actions if action.nargs == 0 for option in action.option_strings}
    args: list[str] = []
    for name, value in flags.items():
        flag = name if name.startswith("-") else f"-{name}"
        if flag in switches:
            args += [flag] if _is_on(flag, value) else []
        elif value is not None:
            args += [flag, str(value)]
    return args


def _is_on(flag: str, value: object) -> bool:
    if isinstance(value, str) and value.lower() not in ("true", "false", ""):
        raise UserError(f'{flag} is "{value}": it is a switch, give true or false')
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _executors(sc: SparkContext | SparkSession | None) -> int:
    """The executors that the application asks for, where it says a number."""
    context = sc.sparkContext if isinstance(sc, SparkSession) else sc
    return int(context.getConf().get("spark.executor.instances", "1") or 1) if context else 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
