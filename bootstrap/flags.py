"""The runtime's flags, as the launcher has to know them: which take a value, and which name files."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bootstrap.errors import LaunchError

Flags = Mapping[str, str | bool]
"""Values by the flags' names; a switch is True."""


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: the runtime's, without its dash.
        long: the friendlier name.
        meaning: a line for the help.
        type: of its value; bool for a switch.
        role: whether it names one thing that the job reads or writes, relative to the solver's folder.
    """

    name: str
    long: str
    meaning: str
    type: type = str
    role: Literal["input", "output", ""] = ""


FLAGS = (
    Flag("conf", "--solver", "Solver prototxt."),
    Flag("train", "--and-train", "Train as well.", bool),
    Flag("test", "--and-test", "Test as well.", bool),
    Flag("features", "--blobs", "Blobs of the TEST net to write, as ip1,ip2."),
    Flag("label", "--label", "Blob added to the features as the label."),
    Flag("model", "--model", "Training: file for the weights. Else: the weights to use."),
    Flag("output", "--output", "Folder for the features, file for the test result.", role="output"),
    Flag("outputFormat", "--output-format", "Of the features: json, parquet, ..."),
    Flag("devices", "--devices", "Ranks an executor, one a GPU or CPU slot.", int),
    Flag("connection", "--connection", "ethernet, infiniband or efa."),
    Flag("clusterSize", "--executors", "Executors that train.", int),
    Flag("persistent", "--persistent", "Keep the training data on Spark's disks.", bool),
    Flag("snapshot", "--resume", "A .solverstate to go on from, with --weights.", role="input"),
    Flag("weights", "--weights", "A .caffemodel to begin with, or several with commas between."),
    Flag("checkpoint_seconds", "--checkpoint-seconds", "Between automatic checkpoints; 0 for none by time.", float),
    Flag("checkpoint_iterations", "--checkpoint-iterations", "Between automatic checkpoints.", int),
    Flag("checkpoints", "--checkpoints", "Automatic checkpoints that are kept.", int),
    Flag("max_restarts", "--max-restarts", "Of training whose executors or ranks die.", int),
    Flag("restart_wait", "--restart-wait", "Longest wait for task slots, in seconds.", float),
    Flag("timeout", "--timeout", "Longest silence of a rank, in seconds.", float),
    Flag("corrupt_share", "--corrupt-share", "Share of damaged records that is left out at most.", float),
    Flag("best", "--best", "Keep the weights with the best validation by this output, as MODEL_best."),
    Flag("patience", "--patience", "End after so many validations without a better --best.", int),
    Flag("shuffle", "--shuffle", "Train on the records in random order.", bool),
    Flag("local_steps", "--local-steps", "SparkNet's way: steps between two means of the weights by the driver.", int),
    Flag("memory_format", "--memory-format", "channels_last or contiguous."),
    Flag("precision", "--precision", "Of convolutions and products: float32 or bfloat16."),
    Flag("resize", "--resize", "Resize images to the data layer's size.", bool),
    Flag("lmdb_partitions", "--lmdb-partitions", "Parts in which an LMDB is read.", int),
)
_BY_SPELLING = {spelling: flag for flag in FLAGS for spelling in (f"-{flag.name}", flag.long)} | {
    "-feature": next(flag for flag in FLAGS if flag.name == "features")
}


def parse(given: Sequence[str]) -> dict[str, str | bool]:
    """Flags as they are typed.

    Raises:
        LaunchError: One is unknown, or lacks its value.
    """
    flags: dict[str, str | bool] = {}
    rest = iter(given)
    for spelling in rest:
        flag = _BY_SPELLING.get(spelling)
        if flag is None:
            near = difflib.get_close_matches(spelling, _BY_SPELLING, n=1, cutoff=0.0)
            raise LaunchError(f"The runtime has no option {spelling!r}: did you mean {near[0]}?")
        if flag.type is bool:
            flags[flag.name] = True
            continue
        value = next(rest, None)
        if value is None:
            raise LaunchError(f"{spelling} is the last word: its value is missing.")
        flags[flag.name] = value
    return flags


def arguments(flags: Flags) -> list[str]:
    """The runtime's arguments, in its own spelling and the order of its help."""
    return [
        word
        for flag in FLAGS
        # Of a number, 0 is a value like any other.
        if flags.get(flag.name) or (flag.type in (int, float) and flags.get(flag.name) == 0)
        for word in ((f"-{flag.name}",) if flag.type is bool else (f"-{flag.name}", str(flags[flag.name])))
    ]
