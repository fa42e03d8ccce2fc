"""The other side: the same nets and solver as one would write them in PyTorch alone."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def lenet() -> nn.Sequential:
    """The net of examples/mnist/lenet_train_test.prototxt."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, 10),
    )


def optimizer(module: nn.Module) -> torch.optim.SGD:
    """LeNet's solver: SGD with momentum and decay."""
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)


def train(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], warm_up: int) -> tuple[float, float]:
    """Train over the batches.

    Returns:
        Images a second after ``warm_up`` steps, and the last loss.
    """
    update, criterion = optimizer(module), nn.CrossEntropyLoss()
    images, start, loss = 0, time.perf_counter(), torch.zeros(())
    for step, (data, label) in enumerate(batches):
        if step == warm_up:
            images, start = 0, time.perf_counter()
        update.zero_grad()
        loss = criterion(module(data), label)
        loss.backward()
        update.step()
        images += len(data)
    return images / (time.perf_counter() - start), float(loss.detach())
