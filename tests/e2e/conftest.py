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


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab; its modules share it as people share an account, each with clusters and a folder of its own."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    # Not below pytest's own folder, which nobody but root may enter.
    with tempfile.TemporaryDirectory(prefix="cos-lab-") as folder, Lab(Path(folder)) as made:
        yield made


def lenet(folder: Path, **fields: int) -> Path:
    """Make a folder with LeNet and a part of MNIST, and return its solver, of which these fields are other ones."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(REPOSITORY / "examples/mnist/lenet_train_test.prototxt", folder)
    text = (REPOSITORY / "examples/mnist/lenet_solver.prototxt").read_text()
    for field, value in {"test_iter": 20, "display": 20, **fields}.items():
        text = re.sub(rf"^{field}: \d+$", f"{field}: {value}", text, flags=re.MULTILINE)
    solver = folder / "lenet_solver.prototxt"
    solver.write_text(text)
    for name, prefix, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = read_idx(str(MNIST_FILES / f"{prefix}-images-idx3-ubyte.gz"), axes=3)[:count, None]
        labels = read_idx(str(MNIST_FILES / f"{prefix}-labels-idx1-ubyte.gz"), axes=1)[:count]
        write_lmdb(folder / "data" / f"mnist_{name}_lmdb", images, labels.tolist())
    return solver
