"""Where Spark and Java are, and the environment their programs get."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bootstrap.errors import LaunchError

LOOPBACK = "127.0.0.1"


def spark_home() -> Path:
    """The home of the Spark that came with the installed pyspark (found, not imported)."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError("pyspark is not installed for this Python: install cos with its runtime, `cos[runtime]`.")
    return Path(next(iter(spec.submodule_search_locations)))


def spark_environment(own: Mapping[str, str], *, inherit_spark: bool = True) -> dict[str, str]:
    """The environment for one of Spark's programs.

    Args:
        own: Variables on top of all others.
        inherit_spark: Whether the caller's own SPARK_* and PYSPARK_* variables count.
    """
    from bootstrap.java import find_java  # noqa: PLC0415 - looks for Java only where it is needed

    taken = {
        name: value
        for name, value in os.environ.items()
        if inherit_spark or not name.startswith(("SPARK_", "PYSPARK_"))
    }
    return {
        **taken,
        "JAVA_HOME": str(find_java()),
        "SPARK_HOME": str(spark_home()),
        # Driver and workers in this very Python: another minor version refuses, another environment lacks packages.
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        **own,
    }
