"""The one exception of the launcher that means: the user can mend this."""


class LaunchError(Exception):
    """Something could not be started or run, told in one sentence that names the way out.

    A log's tail may follow on further lines. Commands print it without a stack trace and exit with its code.
    """

    exit_code = 2


class FailedError(LaunchError):
    """What was begun did not succeed, through no mistake in what was asked. Commands exit with code 1."""

    exit_code = 1
