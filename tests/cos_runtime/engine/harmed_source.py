"""A source that tells where its ranks are, so that a test can harm them."""

import os
import time
from pathlib import Path

from cos_runtime.sources.lmdb import LMDB


class Marked(LMDB):
    """Leaves the number of its process beside the solver, as ``rank0.pid`` and ``rank1.pid``.

    Rank 1 raises once there is a file ``raise`` beside them, and stands still once there is one ``hang``. Each batch
    takes a few milliseconds, so that a test has the time to do harm.
    """

    is_marked = False

    def decode(self, rows, generator):
        rank = int(rows.column("id")[0].as_py()) % 2
        if not self.is_marked:
            beside = Path(self.folder, f"{os.getpid()}.part")
            beside.write_text(str(os.getpid()))
            beside.replace(Path(self.folder, f"rank{rank}.pid"))
            self.is_marked = True
        if rank and Path(self.folder, "raise").exists():
            raise ValueError("the records of this rank are cursed")
        while rank and Path(self.folder, "hang").exists():
            time.sleep(0.1)
        time.sleep(0.003)
        return super().decode(rows, generator)
