"""The exceptions that mean: the user can mend this."""


class UserError(Exception):
    """A mistake in what the user gave, told in one sentence that names the place and the way out.

    Commands print it without a stack trace and exit with code 2.
    """


class CorruptRecordError(UserError):
    """One record among many cannot be read: training can do without it, as long as such records are few."""
