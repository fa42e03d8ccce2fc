import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cos_runtime.tools.mnist_to_lmdb import read_idx
from tests.fixtures.mnist import MNIST_FILES, write_lmdb
from tests.lab.lab import REPOSITORY, Lab

TRAIN, TEST = 12_000, 2_000  # records of MNIST that jobs here use
CHANGES = {"max_iter": 240, "test_iter": 20, "test_interval": 120, "snapshot": 60, "display": 20}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab of this module, with LeNet and MNIST on its laptop."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    # Not below pytest's own folder, which nobody but root may enter.
    with tempfile.TemporaryDirectory(prefix="cos-lab-") as folder, Lab(Path(folder)) as made:
        _lenet(made.home / "mnist")
        yield made


def write_solver(place: Path, **changes: int) -> None:
    """LeNet's solver, but for these fields."""
    solver = (REPOSITORY / "examples/mnist/lenet_solver.prototxt").read_text()
    for field, value in changes.items():
        solver = re.sub(rf"^{field}: \d+$", f"{field}: {value}", solver, flags=re.MULTILINE)
    place.write_text(solver)


def _lenet(folder: Path) -> None:
    """LeNet, its solver for a short run, and a part of MNIST."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(REPOSITORY / "examples/mnist/lenet_train_test.prototxt", folder)
    write_solver(folder / "lenet_solver.prototxt", **CHANGES)
    for name, prefix, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = read_idx(str(MNIST_FILES / f"{prefix}-images-idx3-ubyte.gz"), axes=3)[:count, None]
        labels = read_idx(str(MNIST_FILES / f"{prefix}-labels-idx1-ubyte.gz"), axes=1)[:count]
        write_lmdb(folder / "data" / f"mnist_{name}_lmdb", images, labels.tolist())
