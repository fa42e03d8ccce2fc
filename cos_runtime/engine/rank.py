"""What a task of the barrier stage runs: one rank, from its first word to its last."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from cos_runtime.engine.companion import Companion
from cos_runtime.engine.failures import LeaveError, PeerDivergedError
from cos_runtime.engine.host import check_open_files
from cos_runtime.engine.job import TrainJob
from cos_runtime.engine.line import Line
from cos_runtime.errors import UserError

if TYPE_CHECKING:
    from cos_runtime.engine.wishes import Wishes

RESULT_SCHEMA = "rank int, iterations long"

# About what a new worker needs to import torch.
_READ_LIMIT = 2.0

# Connecting to the driver is quick or does not work at all.
_CALL_LIMIT = 30.0


def run_rank(job: TrainJob, rank: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Train as rank ``rank`` of the job and report how many iterations were made.

    A failure is told to the driver over the line before it is raised, so that the first cause is known there, and
    not only the consequences in other ranks.
    """
    # Imported here, in the task: torch takes seconds, and whoever pickles this function needs none of it.
    from cos_runtime.engine.train import Trainer  # noqa: PLC0415
    from cos_runtime.engine.wishes import Wish, Wishes  # noqa: PLC0415
    from cos_runtime.engine.world import join  # noqa: PLC0415

    _log_to_stderr(rank)
    with Line.call(job.address, _CALL_LIMIT) as line:
        try:
            check_open_files(job.ranks)
            with join(rank, job.ranks, job.connection, line, job.timeout) as (world, go):
                logging.info("rank %d of %d on %s, %s", rank, world.size, world.device, world.backend or "alone")
                wishes = Wishes(world.device)
                # The driver has one word for a rank at work: "checkpoint".
                with Companion(line, lambda _: wishes.ask(Wish.CHECKPOINT)) as companion:
                    trainer = Trainer(job, world, line, go, companion.counted(batches), wishes=wishes)
                    companion.follow(trainer.batches_taken)
                    with _leaving_on_sigterm(wishes):
                        iterations = trainer.run()
        except BaseException as error:
            line.send(
                "failed",
                error=str(error),
                type=type(error).__name__,
                trace=traceback.format_exc(),
                is_consequence=_comes_from_another(error),
                is_lost=isinstance(error, LeaveError),
                is_users=isinstance(error, UserError),
            )
            raise
        line.send("done", iterations=iterations)
    _read_to_end(batches)
    yield pa.RecordBatch.from_pydict(
        {"rank": pa.array([rank], pa.int32()), "iterations": pa.array([iterations], pa.int64())}
    )


@contextlib.contextmanager
def _leaving_on_sigterm(wishes: Wishes) -> Iterator[None]:
    """Answer SIGTERM by a checkpoint and an end after the step that is being made."""
    before = signal.signal(signal.SIGTERM, lambda *_: wishes.leave())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_to_end(batches: Iterator[pa.RecordBatch]) -> None:
    """Take what training left of the task's input: Spark keeps a worker, with all it has imported, only at its end."""
    limit = time.monotonic() + _READ_LIMIT
    with contextlib.suppress(ValueError):  # a feed that still waits for Spark's next batch holds the generator
        for _ in batches:
            if time.monotonic() > limit:
                return


def _log_to_stderr(rank: int) -> None:
    """Send log lines to the executor's stderr, where Spark's UI shows them, with the rank in front."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"[rank {rank} {socket.gethostname()}] %(asctime)s %(levelname)s %(message)s",
        force=True,
    )


def _comes_from_another(error: BaseException) -> bool:
    """Whether the exchange with another rank broke off: then that one has the cause."""
    import torch.distributed as dist  # noqa: PLC0415 - torch is loaded by now

    if isinstance(error, dist.DistError | PeerDivergedError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))
