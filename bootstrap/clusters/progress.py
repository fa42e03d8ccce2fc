"""What Pulumi is at, resource by resource, from its events."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pulumi.automation import EngineEvent, OpType

_SILENT = (OpType.SAME, OpType.READ, OpType.REFRESH)
_DOING = {"create": "creating", "update": "changing", "delete": "removing", "replace": "replacing"}
_DONE = {"create": "created", "update": "changed", "delete": "removed", "replace": "replaced"}


class Step(NamedTuple):
    """One resource at work: what is done to it, its type as `Instance`, its name, when it began (monotonic s)."""

    operation: str
    type: str
    name: str
    began: float

    @property
    def doing(self) -> str:
        """As in `creating Instance dev-gpu-0`."""
        return f"{_verb(self.operation, _DOING)} {self.type} {self.name}"

    @property
    def done(self) -> str:
        """As in `created Instance dev-gpu-0`."""
        return f"{_verb(self.operation, _DONE)} {self.type} {self.name}"


class Progress:
    """Follows an operation; events come on another thread than whoever looks.

    Args:
        tell: Called with each resource that is done.

    Attributes:
        counts: How many resources are done, by operation.
        failed: Names of the resources that could not be had.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _text: None) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []
        self._tell = tell
        self._running: dict[str, Step] = {}
        self._lock = threading.Lock()

    def __call__(self, event: EngineEvent) -> None:
        """Take the next event."""
        before, after, failed = event.resource_pre_event, event.res_outputs_event, event.res_op_failed_event
        with self._lock:
            if before is not None and before.metadata.op not in _SILENT:
                urn = before.metadata.urn
                if not _is_component(urn):
                    self._running[urn] = _step(before.metadata.op, urn)
            elif after is not None:
                step = self._running.pop(after.metadata.urn, None)
                if step is not None:
                    self.counts[step.operation] += 1
                    self._tell(step.done)
            elif failed is not None:
                self._running.pop(failed.metadata.urn, None)
                self.failed.append(failed.metadata.urn.rsplit("::", 1)[1])

    def running(self) -> list[Step]:
        """What is being done now, the longest first."""
        with self._lock:
            return sorted(self._running.values(), key=lambda step: step.began)


def _step(operation: OpType, urn: str) -> Step:
    kinds, name = urn.split("::")[2:4]
    return Step(operation.value, kinds.rsplit(":", 1)[1], name, time.monotonic())


def _is_component(urn: str) -> bool:
    kind = urn.split("::")[2].rsplit("$", 1)[-1]
    return kind.startswith(("cos:", "pulumi:"))


def _verb(operation: str, words: dict[str, str]) -> str:
    return next((word for start, word in words.items() if operation.startswith(start)), operation)
