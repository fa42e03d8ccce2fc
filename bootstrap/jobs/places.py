"""Where the results of jobs that were asked for from here may go: `places/TOKEN.json` below the launcher's home.

A cluster's own record tells that too, and the job that it is about can rewrite it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bootstrap import home
from bootstrap.jobs.record import JobRecord, JobSpec

_TOKEN = re.compile(r"[0-9a-f]{32}")
METRICS = "metrics.jsonl"
REPORTS = (METRICS, "train.log", "tensorboard")
"""What a training job writes beside its model."""
# Where snapshots go the solver says, which only the runtime reads.
_SNAPSHOTS = (".caffemodel", ".caffemodel.h5", ".solverstate", ".solverstate.h5")
_TEST_RESULT = ".test.txt"


class Places(BaseModel):
    """What a job may write here.

    Attributes:
        job: its number; empty as long as that is not known.
        names: by each folder here, the names in it that the job was told to write.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str = ""
    names: Mapping[str, tuple[str, ...]] = {}

    def have(self, folder: str, name: str) -> bool:
        """Whether a file below a folder, by its relative name, is one that the job was to write there."""
        given = self.names.get(folder)
        if given is None:
            return False
        told = {*REPORTS, *given, *(f"{one}{_TEST_RESULT}" for one in given)}
        return name.partition("/")[0] in told or name.endswith(_SNAPSHOTS)


def told(spec: JobSpec) -> Places:
    """What a job is told to write here, where it writes elsewhere first."""
    names: dict[str, tuple[str, ...]] = {}
    for result in spec.results:
        if result.place != result.path:
            folder = f"{result.path}/"
            below = (word.removeprefix(folder) for word in spec.args if word.startswith(folder))
            names[result.place] = (*names.get(result.place, ()), *below)
    return Places(names=names)


def keep(token: str, places: Places, job: str = "") -> None:
    """Keep what the job of a token may write here; its number, once that is known."""
    if places.names:
        home.keep(_path(token), places.model_copy(update={"job": job}).model_dump_json(indent=2))


def kept(record: JobRecord) -> Places | None:
    """What a job may write here; None where it was not asked for from here."""
    if not _TOKEN.fullmatch(record.token):
        return None
    try:
        places = Places.model_validate_json(_path(record.token).read_text())
    except FileNotFoundError:
        return None
    return places if places.job in ("", record.id) else None


def _path(token: str) -> Path:
    return home.home() / "places" / f"{token}.json"
