"""What the tools' command lines have in common."""

import argparse
import sys
from collections.abc import Callable, Sequence

from cos_runtime.errors import UserError


def run(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], str], argv: Sequence[str] | None = None
) -> int:
    """Run a tool's ``work`` on its parsed arguments and print the sentence it ends with.

    Returns:
        The exit code: 0, or 2 for an error the user can mend, whose sentence goes to stderr.
    """
    args = parser.parse_args(argv)
    try:
        print(work(args))
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
