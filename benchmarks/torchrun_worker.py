"""One process of `two_ranks`' other side: torch's DistributedDataParallel over a DataLoader, started by torchrun."""

import json
import sys
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from benchmarks import plain_torch
from benchmarks.mnist import tensors


def main(steps: int, warm_up: int, answer: Path) -> None:
    """Train; rank 0 writes the images a second of all ranks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    data = TensorDataset(*tensors("train"))
    loader = DataLoader(data, batch_size=64, sampler=DistributedSampler(data), drop_last=True)
    module = DistributedDataParallel(plain_torch.lenet())
    rate, _ = plain_torch.train(module, islice(chain.from_iterable(repeat(loader)), steps), warm_up)
    if distributed.get_rank() == 0:
        answer.write_text(json.dumps(rate * distributed.get_world_size()))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
