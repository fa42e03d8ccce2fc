"""Whether a person watches, on a terminal."""

import os
import sys
from pathlib import Path


def columns() -> int | None:
    """The width of the terminal that shows standard error, None where there is none that can redraw a line.

    spark-submit takes a program's output by a pipe and writes it to its own standard output: then that counts.
    """
    if os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        return None
    if sys.stderr.isatty():
        return os.get_terminal_size(sys.stderr.fileno()).columns
    # Spark sets the variable for the programs that it starts.
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return None
    try:
        with Path(f"/proc/{os.getppid()}/fd/1").open("wb", buffering=0) as output:
            return os.get_terminal_size(output.fileno()).columns
    except OSError:
        return None  # no terminal, or no /proc
