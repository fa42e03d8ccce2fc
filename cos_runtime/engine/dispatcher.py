"""The driver's ear: what the ranks say, and when one of them has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine import host
from cos_runtime.engine.averaging import Collector
from cos_runtime.engine.failures import RankError
from cos_runtime.engine.job import Start, TrainJob
from cos_runtime.engine.line import Line, Message, Switchboard
from cos_runtime.engine.watch import Watch
from cos_runtime.errors import UserError

_IDLE = 0.1
# After this long over one message, others may lie unread.
_BUSY = 1.0
# A snapshot that takes longer to write, in seconds, is taken for stuck.
_WRITE_LIMIT = 3600.0
# The consequences of a failure may be told before it. So this long a cause is waited for, before Spark is told to
# end the tasks: from then on a rank that ends is no news.
_GRACE = 0.7


@dataclass
class _Rank:
    rank: int
    host: str
    gpus: int
    store: list[object] | None
    line: Line
    is_heard: bool = False  # its end, good or bad, is told


@dataclass
class Dispatcher:
    """Answers the ranks' first words and passes on the others, on a thread of its own.

    Attributes:
        on_message: called with every later message; what it raises ends the job.
        on_failure: called once, when the job has failed.
        decided: set then, too.
    """

    switchboard: Switchboard
    job: TrainJob
    start: Start
    on_message: Callable[[Message], None]
    on_failure: Callable[[], None]
    decided: threading.Event = field(default_factory=threading.Event)
    _causes: list[RankError] = field(default_factory=list)
    _consequences: list[RankError] = field(default_factory=list)
    _failed_at: float | None = None
    _watch: Watch = field(init=False)
    _collector: Collector = field(init=False)
    _ranks: dict[Line, _Rank] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _looked_at: float = field(default_factory=time.monotonic)
    # When each line's snapshot came, until it is written.
    _writing: dict[Line, float] = field(default_factory=dict)
    _told_writing_at: float = 0.0
    # A snapshot may take long to be written, and a failure must be heard meanwhile.
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "cos-writer"))

    def __post_init__(self) -> None:
        self._collector = Collector(self.job.ranks)
        self._watch = Watch(self.job.ranks, self.job.timeout)

    def run(self) -> None:
        """Handle messages until :meth:`end` is called and none is left."""
        while True:
            for line, message in self.switchboard.messages(_IDLE):
                try:
                    self._handle(line, message)
                except Exception as error:  # noqa: BLE001 - raised again on the main thread
                    self._fail(error if isinstance(error, RankError) else RankError(str(error) or type(error).__name__))
                self._look()
            self._look()
            if self._ended.is_set():
                self._writer.shutdown()
                return

    def end(self) -> None:
        """No more messages will come."""
        self._ended.set()

    def ask_for_checkpoint(self) -> None:
        """Have the ranks make a checkpoint at the end of their step."""
        for line, rank in list(self._ranks.items()):
            if rank.rank == 0:
                line.post("checkpoint")

    def failure(self) -> RankError | None:
        """The cause of the failure; a mere consequence of another one only where nothing else was told."""
        return next(iter(self._causes or self._consequences), None)

    def _in_order(self) -> list[_Rank]:
        return sorted(self._ranks.values(), key=lambda rank: rank.rank)

    def _handle(self, line: Line, message: Message | None) -> None:
        rank = self._ranks.get(line)
        if message is None:
            if rank and not rank.is_heard and not self.decided.is_set():
                self._end_of(rank)
                text = f"rank {rank.rank} on {rank.host} ended without a word: it was killed, or ran out of memory"
                self._fail(RankError(text, is_lost=True), at_once=False)
        elif message.kind == "hello":
            facts = message.facts
            _refuse_wrong_clock(facts)
            self._ranks[line] = _Rank(facts["rank"], facts["host"], facts["gpus"], facts["store"], line)
            self._watch.heard(facts["rank"], facts["host"])
            if len(self._ranks) == self.job.ranks:
                self._go()
        elif message.kind == "beat":
            beating = self._ranks[line]
            self._watch.heard(beating.rank, beating.host, **message.facts)
        elif message.kind == "done":
            self._end_of(self._ranks[line])
        elif message.kind == "failed":
            self._failed(rank, message)
        elif message.kind == "weights":
            self._collector.take(line, message.blobs[0])
        elif message.kind == "snapshot":
            self._writing[line] = time.monotonic()
            self._writer.submit(self._write, line, message)
        else:
            self.on_message(message)

    def _end_of(self, rank: _Rank) -> None:
        rank.is_heard = True
        self._watch.ended(rank.rank)

    def _write(self, line: Line, message: Message) -> None:
        """Have a snapshot written, and tell the rank how that went."""
        try:
            self.on_message(message)
        except Exception as error:  # noqa: BLE001 - for the rank to judge
            line.post("refused", error=f"the snapshot cannot be written on the driver: {error}")
        else:
            line.post("kept")
        finally:
            self._writing.pop(line, None)

    def _go(self) -> None:
        ranks = self._in_order()
        device = self._device(ranks)
        self.on_message(Message("started", {"device": device}))
        store = ranks[0].store
        seen: dict[str, int] = {}
        for rank in ranks:
            place = seen[rank.host] = seen.get(rank.host, -1) + 1
            start = self.start if rank.rank == 0 else Start()
            # Posted: one that does not read is the watch's to find.
            rank.line.post(
                "go",
                *(content for _, content in start.models),
                start.state,
                device=device,
                rank_of_host=place,
                store=store,
                models=[path for path, _ in start.models],
                state=start.state_path,
            )

    def _device(self, ranks: list[_Rank]) -> str:
        """GPUs if the solver asks for them, or if it does not say and every rank's host has some."""
        solver = self.job.solver
        without = next((rank for rank in ranks if not rank.gpus), None)
        if solver.HasField("solver_mode") and solver.solver_mode == SolverParameter.CPU:
            return "cpu"
        if without is None:
            return "cuda"
        if solver.HasField("solver_mode"):
            text = (
                f"solver_mode is GPU and rank {without.rank} on {without.host} sees no GPU: "
                "set solver_mode: CPU, or use nodes with GPUs"
            )
            raise RankError(text, is_users=True)
        return "cpu"

    def _failed(self, rank: _Rank | None, message: Message) -> None:
        facts = message.facts
        where = f"rank {rank.rank} on {rank.host}" if rank else "a rank"
        is_users = facts["is_users"]
        cause = facts["error"] if is_users or not facts["error"] else f"{facts['type']}: {facts['error']}"
        if rank:
            self._end_of(rank)
        text = f"{where}: {cause or facts['type']}"
        if facts["is_consequence"]:
            self._consequences.append(RankError(text, facts["trace"], is_lost=True))
            self._failed_at = self._failed_at or time.monotonic()
        else:
            self._fail(RankError(text, facts["trace"], is_users=is_users, is_lost=facts["is_lost"]))

    def _look(self) -> None:
        """Do what is due by time; with many ranks, messages leave no idle moment for it."""
        self._decide_if_due()
        now = time.monotonic()
        passed = now - self._looked_at
        if passed < _IDLE:
            return
        self._looked_at = now
        if passed > _BUSY:
            self._watch.pass_over(passed)
        self._tell_of_writing(now)
        self._notice_silence()

    def _tell_of_writing(self, now: float) -> None:
        """Have ranks that wait for a snapshot know that it is still being written."""
        lines = [line for line, begun in list(self._writing.items()) if now - begun < _WRITE_LIMIT]
        if not lines:
            return
        self._watch.keep_waiting()
        if now - self._told_writing_at > self.job.timeout / 4:
            self._told_writing_at = now
            for line in lines:
                line.post("writing")

    def _notice_silence(self) -> None:
        overdue = None if self._failed_at or self._ended.is_set() else self._watch.overdue()
        if overdue:
            self._fail(RankError(overdue, is_lost=True))

    def _fail(self, error: RankError, *, at_once: bool = True) -> None:
        self._causes.append(error)
        self._failed_at = self._failed_at or time.monotonic()
        if at_once:
            self._decide()

    def _decide_if_due(self) -> None:
        if self._failed_at and time.monotonic() - self._failed_at > _GRACE:
            self._decide()

    def _decide(self) -> None:
        if not self.decided.is_set():
            self.decided.set()
            self.on_failure()


def _refuse_wrong_clock(facts: dict[str, Any]) -> None:
    try:
        host.check_clock(facts["host"], facts["time"], time.time())
    except UserError as error:
        raise RankError(str(error), is_users=True) from None
