"""How programs that we start find this package."""

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """Ours, in which a Python that starts in any directory imports this package."""
    package = str(Path(__file__).resolve().parent.parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != package]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, *paths])}
