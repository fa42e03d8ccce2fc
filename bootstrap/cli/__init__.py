"""The `cos` command: a module a group of verbs.

This file stays light, so that `cos --help` answers at once: what is heavy is imported by the verb that needs it.
"""

import sys
from collections.abc import Sequence

from bootstrap.errors import LaunchError

LOST = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `cos` with the arguments (the command line's by default) and exit with its code."""
    from bootstrap.cli.app import build_app  # noqa: PLC0415 - whoever imports a verb's module needs no app
    from bootstrap.cli.terminal import terminal  # noqa: PLC0415

    try:
        build_app()(args=arguments, prog_name="cos")
    except LaunchError as error:
        if terminal.debug:
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        else:
            terminal.error(str(error))
        sys.exit(error.exit_code)
