"""How fast a cluster exchanges gradients: `-m bootstrap.clusters.allreduce CONNECTION ADDRESS [MIB]` under torchrun.

Rank 0 prints the bus bandwidth in Gbit/s, as nccl-tests counts it (doc/PERFORMANCE.md there): 2(n-1)/n bytes cross the
slowest link for each byte of the buffer. Over several nodes that is what the nodes' links carry.
"""

import datetime
import os
import sys
import time

import torch
import torch.distributed as dist

from cos_runtime.engine.network import choose

_MIB = 256
_WARM_UP_PART = 16  # of the buffer: connections are made, and not much time goes by on a slow link
_ROUNDS = 10
_ENOUGH_SECONDS = 5.0  # of measuring: on a slow link fewer rounds tell as much
_SECONDS = 60


def main(connection: str, address: str, mib: int = _MIB) -> None:
    """Measure with a buffer of so many MiB, as one rank of torchrun's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exchange = choose(connection, device, address)
    exchange.enter()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(exchange.backend, timeout=datetime.timedelta(seconds=_SECONDS))
    buffer = torch.ones(mib * 2**20 // 4, device=device)
    _measure(buffer[: len(buffer) // _WARM_UP_PART], 1)
    # Rank 0's word, as all have to agree.
    first = torch.tensor([_measure(buffer, 1)], device=device)
    dist.broadcast(first, 0)
    seconds = first.item()
    rounds = min(int(_ENOUGH_SECONDS / seconds), _ROUNDS)
    if rounds > 1:
        seconds = _measure(buffer, rounds)
    ranks = dist.get_world_size()
    if dist.get_rank() == 0:
        print(f"{2 * (ranks - 1) / ranks * mib * 2**20 * 8 / seconds / 1e9:.3f}", flush=True)
    dist.destroy_process_group()


def _measure(buffer: torch.Tensor, rounds: int) -> float:
    """Seconds that an allreduce of the buffer takes, by so many of them."""
    _settle(buffer.device.type)
    began = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(buffer)
    _settle(buffer.device.type)
    return (time.perf_counter() - began) / rounds


def _settle(device: str) -> None:
    """Wait until all ranks have done what was begun."""
    if device == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
