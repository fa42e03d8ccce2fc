"""Where reference values of Caffe itself lie."""

from pathlib import Path

import numpy as np
import pytest


def folder(config: pytest.Config, name: str) -> Path:
    """The cases called ``name``: those of ``--reference`` where it has them, else the repository's own."""
    given = config.getoption("--reference")
    if given and (Path(given) / name).is_dir():
        return Path(given) / name
    return Path(__file__).parent / "reference" / name


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a part of the largest value."""
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / max(np.abs(theirs).max(), 1e-30))
