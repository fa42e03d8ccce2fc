"""Where a rank stands among the others, and how it meets them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from cos_runtime.engine import host, network
from cos_runtime.engine.line import Line, Message
from cos_runtime.errors import UserError

_AFTER_DRIVER = 15.0


@dataclass(frozen=True)
class World:
    """A rank's place.

    Attributes:
        rank: from 0; the number of the task's partition.
        size: the number of ranks.
        device: what the rank computes on.
        backend: torch's name of the exchange; empty for one rank alone.
    """

    rank: int
    size: int
    device: torch.device
    backend: str

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to exchange with."""
        return self.size == 1

    def dealt(self, records: int) -> int:
        """How many of the first ``records`` records are this rank's: record ``p`` is rank ``p % size``'s."""
        return -(-(records - self.rank) // self.size)

    def count(self, own: int) -> int:
        """The sum of a number over all ranks."""
        return int(self.sum(torch.tensor(own)))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a small vector over all ranks."""
        return self.sum(values) / self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a small vector over all ranks."""
        if not self.is_alone:
            values = values.to(self.device, copy=True)
            dist.all_reduce(values)
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The vectors [n] of all ranks, as [size, n]."""
        if self.is_alone:
            return values[None]
        rows = values.new_empty(self.size * len(values))
        dist.all_gather_into_tensor(rows, values.contiguous())
        return rows.view(self.size, -1)

    def copy_from_first(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite tensors, in place, by those of rank 0."""
        if not self.is_alone:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def join(rank: int, size: int, connection: str, line: Line, timeout: float) -> Iterator[tuple[World, Message]]:
    """Meet the other ranks: one word to the driver, one answer, one process group.

    Args:
        timeout: longest wait for the others, and later for any exchange, in seconds.

    Yields:
        The rank's place, and the driver's answer with what it adds for this rank.

    Raises:
        UserError: the host lacks what ``connection`` or the driver's choice of device needs.
        TimeoutError: other ranks did not come in time.
    """
    store = None
    if rank == 0 and size > 1:
        # Port 0: the store itself picks a free port and holds it.
        store = _store(line.local_ip, 0, size, timeout, is_first=True)
    line.send(
        "hello",
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        gpus=torch.cuda.device_count(),
        store=[line.local_ip, store.port] if store else None,
    )
    try:
        answer = line.receive(timeout)
    except TimeoutError:
        raise TimeoutError(f"the other ranks did not start within {timeout:.0f} s") from None
    if answer.facts["device"] == "cuda":
        host.check_shared_memory(answer.facts["rank_of_host"] + 1)
    device = _device(answer.facts["device"], answer.facts["rank_of_host"])
    exchange = network.choose(connection, device.type, line.local_ip)
    if size == 1:
        yield World(rank, size, device, ""), answer
        return
    exchange.enter()
    address, port = answer.facts["store"]
    store = store or _store(address, port, size, timeout, is_first=False)
    dist.init_process_group(
        exchange.backend,
        store=store,
        rank=rank,
        world_size=size,
        # Later than the driver, which knows who is missing where a rank knows only that somebody is.
        timeout=timedelta(seconds=timeout + _AFTER_DRIVER),
        device_id=device if device.type == "cuda" else None,
    )
    yield World(rank, size, device, exchange.backend), answer
    # Only at a good end: after a failure the others may never answer, and the process ends anyway.
    dist.destroy_process_group()


def _store(host: str, port: int, size: int, timeout: float, *, is_first: bool) -> TCPStore:
    return TCPStore(host, port, size, is_master=is_first, timeout=timedelta(seconds=timeout), wait_for_workers=False)


def _device(kind: str, rank_of_host: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    from pyspark import TaskContext  # noqa: PLC0415 - only a task has one

    context = TaskContext.get()
    resources = context.resources() if context else {}
    count = torch.cuda.device_count()
    index = int(resources["gpu"].addresses[0]) if "gpu" in resources else rank_of_host
    if index >= count:
        raise UserError(
            f"{socket.gethostname()} has {count} GPUs, too few for its {rank_of_host + 1} ranks: "
            "let Spark count them (spark.task.resource.gpu.amount=1), or lower -devices"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device
