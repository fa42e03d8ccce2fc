"""How a job can end badly, as the driver tells it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkException

from cos_runtime.errors import UserError

# What PySpark raises where Spark fails, or is gone.
SPARKS_ERRORS = (PySparkException, Py4JError, ConnectionError)
# Of SparkException: "Job 3 cancelled …", "Job aborted due to stage failure: … Stage 4 was cancelled".
_CANCELLED = re.compile(r"\b(Job|Stage) \d+ (was )?cancelled\b")
# What Spark says when a process is gone, or the records that it held: nobody's mistake.
_LOST = re.compile(
    r"ExecutorLostFailure|Python worker exited unexpectedly|Python worker failed to connect back|FetchFailed"
    r"|executor \S+ (was )?(lost|decommissioned)|[Ww]orker (lost|shutting down)|checkpoint block .* not found",
    re.IGNORECASE,
)

# In the stack trace of a task, which is all that Spark hands on of its exception.
_MISTAKE = re.compile(r"^cos_runtime\.errors\.\w+: (.+)$", re.MULTILINE)


class RankError(Exception):
    """A rank failed: the message names it, its host and the cause.

    Attributes:
        trace: the stack trace on the rank, empty if there is none.
        is_users: whether the cause is a mistake the user can mend.
        is_lost: whether a process or a host went away, so that a new start may go well.
        is_told: whether the reporters have shown the message.
    """

    def __init__(self, message: str, trace: str = "", *, is_users: bool = False, is_lost: bool = False) -> None:
        super().__init__(message)
        self.trace = trace
        self.is_users = is_users
        self.is_lost = is_lost
        self.is_told = False


class JobCancelled(Exception):  # noqa: N818 - no error: somebody wanted it
    """The job was stopped from outside: by Ctrl-C, by another thread of the program, or in Spark's UI."""


class LeaveError(Exception):
    """A rank was told to end and has done so between two steps, after a checkpoint."""


class PeerDivergedError(Exception):
    """The loss of another rank is no finite number."""


def is_shut_down(error: Exception) -> bool:
    """Whether Spark itself has ended: its JVM is gone, or on its way."""
    return isinstance(error, Py4JNetworkError | ConnectionError) or "SparkContext was shut down" in str(error)


@contextlib.contextmanager
def mistakes_told() -> Iterator[None]:
    """Raises a UserError of a task, as of a damaged record, where Spark has only its stack trace to tell of."""
    try:
        yield
    except SPARKS_ERRORS as error:
        told = _MISTAKE.findall(str(error))
        if told:
            raise UserError(told[-1]) from None
        raise


def of_spark(text: str, otherwise: str = "a task failed before its rank began") -> RankError | JobCancelled:
    """What Spark's own account of a failed stage comes to, where no rank has given the cause.

    Args:
        text: the account.
        otherwise: what is said before its last error, where nobody stopped it and nothing was lost.
    """
    if _CANCELLED.search(text):
        return JobCancelled()
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    lost = _LOST.search(text)
    if lost:
        line = next((line for line in lines if _LOST.search(line)), lines[0])
        return RankError(f"an executor or its Python worker was lost: {line}", is_lost=True)
    errors = [line for line in lines if "Error: " in line or "Exception: " in line]
    return RankError(f"{otherwise}: {errors[-1] if errors else lines[0]}", text)
