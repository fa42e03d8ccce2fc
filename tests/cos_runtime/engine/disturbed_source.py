"""A source whose ranks are sent signals at given moments, so that a test can see them go on."""

import contextlib
import os
import signal
from pathlib import Path

from cos_runtime.sources.lmdb import LMDB


def executor() -> int:
    """The process of the executor: the parent of the daemon that has forked this Python worker."""
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])


DISTURBANCES = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill-executor": lambda: os.kill(executor(), signal.SIGKILL),
    "leave": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "decommission": lambda: os.kill(executor(), signal.SIGPWR),
}


class Disturbed(LMDB):
    """Does what the file ``disturbances`` beside the solver says, once each.

    A line of it is ``RECORD:COUNT:DISTURBANCE``: at the batch that begins with this record (its rank is the one
    disturbed) when the process comes by it for the ``COUNT``-th time.
    """

    def decode(self, rows, generator):
        if not self.is_train:
            return super().decode(rows, generator)
        first = int(rows.column("id")[0].as_py())
        seen = self.__dict__.setdefault("seen", {})
        seen[first] = seen.get(first, 0) + 1
        for line in Path(self.folder, "disturbances").read_text().split():
            record, count, what = line.split(":")
            if (int(record), int(count)) == (first, seen[first]):
                with contextlib.suppress(FileExistsError):
                    Path(self.folder, f"did-{line}").touch(exist_ok=False)
                    DISTURBANCES[what]()
        return super().decode(rows, generator)
