"""What TorchDistributor's processes run."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from benchmarks import plain_torch
from benchmarks.mnist import SCALE

_BATCH = 64


def nothing() -> None:
    """Join the process group, and no more."""
    distributed.init_process_group("gloo")
    distributed.destroy_process_group()


def train(steps: int) -> float:
    """Train LeNet on this rank's partition; returns the last loss."""
    from pyspark.ml.torch.distributor import _get_spark_partition_data_loader  # noqa: PLC0415

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    loader = _get_spark_partition_data_loader(30_000, _BATCH, num_workers=0)
    module = DistributedDataParallel(plain_torch.lenet())
    _, loss = plain_torch.train(module, _batches(loader, steps), warm_up=0)
    distributed.destroy_process_group()
    return loss


def _batches(loader: DataLoader[list[object]], steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    while done < steps:
        for images, label in loader:
            yield pixels_of(images), torch.as_tensor(label)
            done += 1
            if done == steps:
                return


def pixels_of(columns: Sequence[Tensor]) -> Tensor:
    """A batch as torch's collation leaves it, a tensor a pixel, made float32 [N, 1, 28, 28]."""
    return torch.stack(list(columns), dim=1).reshape(-1, 1, 28, 28).to(torch.float32) * SCALE
