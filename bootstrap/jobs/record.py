"""What is asked of a job, and what became of it: `job.json`."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["train", "test", "features", "program"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
WORK = "{work}"
"""Stands for the job's own directory in a spec, which is written before the job has one."""


class _Model(BaseModel):
    # A record may be read by a launcher that is older than what wrote it.
    model_config = ConfigDict(frozen=True, extra="ignore")


class LocalTarget(_Model):
    """A standalone cluster on the job's machine, which lives as long as the job.

    Attributes:
        workers: its workers.
        cores: of each.
        memory: of each, as Spark writes it.
        quick: see `bootstrap.local_cluster.LocalCluster`.
    """

    kind: Literal["local"] = "local"
    workers: int = 2
    cores: int = 1
    memory: str = "2g"
    quick: bool = False


class MasterTarget(_Model):
    """A Spark master that is there.

    Attributes:
        master: ``spark://host:7077``, ``local[2]``.
        properties_file: Spark properties on the job's machine, the place for its secret.
    """

    kind: Literal["master"] = "master"
    master: str
    properties_file: str | None = None


class Result(_Model):
    """Something that the job writes.

    Attributes:
        path: a file or folder on the job's machine.
        place: the file or folder that it becomes on the machine of whoever fetches it.
    """

    path: str
    place: str


class JobSpec(_Model):
    """What is asked of a job. All paths are on the job's machine.

    Attributes:
        token: of the asker's making; a spec that is sent twice is one job.
        name: for people.
        kind: what the job does.
        args: of the runtime or of the program.
        target: where Spark is.
        folder: the directory in which the job runs.
        program: the script to run instead of the runtime.
        code: Python files and packages that driver and executors import.
        files: what it was sent, and needs on every node.
        conf: Spark properties, none of them secret.
        results: what it writes.
        metrics: its `metrics.jsonl`, where it writes one.
    """

    token: str
    name: str
    kind: Kind
    args: tuple[str, ...]
    target: LocalTarget | MasterTarget = Field(discriminator="kind")
    folder: str = WORK
    program: str | None = None
    code: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    conf: dict[str, str] = {}
    results: tuple[Result, ...] = ()
    metrics: str | None = None


class JobRecord(JobSpec):
    """A job.

    Attributes:
        id: its number on its machine.
        state: how far it is.
        submitted: when it was asked for.
        started: when its turn came.
        ended: when it ended.
        exit_code: of the runtime or program; 130 where it was stopped.
        message: why it failed, in a sentence.
        web_url: Spark's page, as the job's machine sees it.
        retry_of: the id of the job that this one does again.
    """

    id: str
    state: State = "queued"
    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    message: str = ""
    web_url: str = ""
    retry_of: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether its state is final."""
        return self.state in FINAL

    @property
    def seconds(self) -> float | None:
        """How long it has run; None where it has not begun."""
        if self.started is None:
            return None
        return ((self.ended or now()) - self.started).total_seconds()


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
