"""Files that jobs were sent, on their way through the bucket to nodes that come later, as in place of lost ones.

The launcher sends them to the nodes that are there. The master keeps a copy in the bucket, and a list of those that
jobs may still need; a worker brings these before it takes part in anything.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bootstrap.node.aws import AwsError
from bootstrap.node.context import Context

PREFIX = "sent"
LOOK_SECONDS = 2.0
FETCH_SECONDS = 600.0
_PUT_SECONDS = 900.0
_POLL_SECONDS = 2.0
_NO_LONGER_NEEDED = ("succeeded", "cancelled")

_log = logging.getLogger("sent")


def keep(context: Context) -> None:
    """Keep the bucket's copy, as long as this process lives."""
    keeper = Keeper(context)
    while True:
        try:
            keeper.look()
        except OSError as error:
            _log.error("%s", error)
        time.sleep(LOOK_SECONDS)


class Keeper:
    """Brings files of jobs to the bucket; `look` is one look at all jobs.

    Args:
        context: The master.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listed: list[str] = []
        self._stored: set[str] = set()

    def look(self) -> None:
        """Write the list of what is needed, then bring what the bucket lacks.

        The list comes first, so that a worker that boots meanwhile waits for the rest.

        Raises:
            OSError: The bucket does not take it.
        """
        wanted = _wanted(self._context)
        if wanted != self._listed:
            self._list(wanted)
        for name in wanted:
            if name not in self._stored:
                self._put(_key(self._context, f"files/{name}"), self._context.layout.files / name)
                self._stored.add(name)

    def _list(self, wanted: list[str]) -> None:
        path = self._context.layout.state / "sent.json"
        path.write_text(json.dumps({"files": wanted}))
        self._put(_key(self._context, "index.json"), path)
        self._listed = wanted

    def _put(self, key: str, path: Path) -> None:
        self._context.aws.put_object(self._context.plan.bucket, key, path, _PUT_SECONDS)


def _key(context: Context, name: str) -> str:
    return f"{PREFIX}/{context.plan.cluster}/{name}"


def _wanted(context: Context) -> list[str]:
    """Paths below the files' directory of what jobs need that run, wait, or may be tried again."""
    found: set[str] = set()
    for path in context.layout.jobs.glob("*/job.json"):
        record = _record(path)
        if record.get("state") in _NO_LONGER_NEEDED:
            continue
        named = [Path(str(name)) for name in record.get("files", [])]
        found |= {str(name.relative_to(context.layout.files)) for name in named if name.is_file()}
    return sorted(found)


def _record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):  # it went meanwhile
        return {}
    return record if isinstance(record, dict) else {}


def fetch(context: Context, seconds: float = FETCH_SECONDS) -> None:
    """Bring the files that jobs may still need to their places on this node.

    What does not come in time is left out, and said in the log: the job that needs it will name it.
    """
    deadline = time.monotonic() + seconds
    folders: dict[str, list[str]] = {}
    for name in _index(context):
        folder, *rest = PurePosixPath(name).parts
        if rest and ".." not in rest and not folder.startswith((".", "/")):
            folders.setdefault(folder, []).append("/".join(rest))
    for folder, names in folders.items():
        try:
            _fetch_folder(context, folder, names, deadline)
        except OSError as error:
            _log.error("%s, which a job was sent, does not come: %s", folder, error)


def _index(context: Context) -> list[str]:
    path = context.layout.state / "sent.json"
    try:
        context.aws.get_object(context.plan.bucket, _key(context, "index.json"), path, _PUT_SECONDS)
    except OSError as error:
        _log.info("no job was sent files: %s", error)
        return []
    return [str(name) for name in _record(path).get("files", [])]


def _fetch_folder(context: Context, folder: str, names: list[str], deadline: float) -> None:
    """Bring a folder, which is there whole or not at all."""
    place = context.layout.files / folder
    if place.exists():
        return
    beside = place.with_name(f".{folder}.part")
    for name in names:
        while True:
            left = deadline - time.monotonic()
            try:
                key = _key(context, f"files/{folder}/{name}")
                context.aws.get_object(context.plan.bucket, key, beside / name, max(left, 1.0))
                break
            except AwsError:
                if left < 0:
                    shutil.rmtree(beside, ignore_errors=True)
                    raise
                time.sleep(_POLL_SECONDS)
    beside.rename(place)
