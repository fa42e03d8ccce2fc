"""How far a training job is, by its `metrics.jsonl`."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any


class TrainingProgress:
    """Reads the lines of a metrics file as they come; see `cos_runtime.engine.report.metrics_file` for what they hold.

    Attributes:
        net: the net's name.
        ranks: how many train together; 0 until they have begun.
        device: what each computes on.
        iteration: how far they are.
        max_iter: where they end.
        first_step: when the first iteration was displayed.
        first_loss: at the first display.
        loss: at the last one.
        rate: the learning rate.
        images_per_second: of all ranks together.
        tests: the outputs of each test net's last pass.
        snapshot: the last snapshot's weights.
        seconds: how long training took, once it is over.
    """

    def __init__(self) -> None:
        self.net = ""
        self.ranks = 0
        self.device = ""
        self.iteration = 0
        self.max_iter: int | None = None
        self.first_step: datetime | None = None
        self.first_loss: float | None = None
        self.loss: float | None = None
        self.rate: float | None = None
        self.images_per_second: float | None = None
        self.tests: dict[int, Mapping[str, Any]] = {}
        self.snapshot = ""
        self.seconds: float | None = None
        self._rest = b""
        self._pace: float | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the file, which may end in the middle of a line."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the last pace; None where that is not known."""
        if self._pace is None or self.max_iter is None:
            return None
        return max(0, self.max_iter - self.iteration) * self._pace

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "started":
            self.net, self.ranks, self.device = event["net"], event["ranks"], event["device"]
            self.max_iter = event["max_iter"]
        elif kind == "train":
            self._take_step(event)
        elif kind == "test":
            self.tests[event["net"]] = event["outputs"]
        elif kind == "snapshot":
            self.snapshot = event["path"]
        elif kind == "finished":
            self.seconds = event["seconds"]
        self.iteration = event.get("iteration", self.iteration)

    def _take_step(self, step: Mapping[str, Any]) -> None:
        self.loss = step["loss"]
        self.first_step = self.first_step or datetime.fromisoformat(step["time"])
        self.first_loss = self.loss if self.first_loss is None else self.first_loss
        if step["lr"] is None:  # the pass after the last update, which is no measure of the pace
            return
        self.rate, self.images_per_second = step["lr"], step["images_per_second"]
        done = step["iteration"] - self.iteration
        if done > 0:
            self._pace = step["seconds"] / done
