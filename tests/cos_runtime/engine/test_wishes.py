"""What ranks tell each other travels with the gradients, and changes nothing else."""

import math
import threading

import pytest
import torch

from cos_runtime.engine.wishes import Wish, Wishes


@pytest.fixture
def wishes() -> Wishes:
    return Wishes(torch.device("cpu"))


def step(wishes: Wishes, value: float = 2.0) -> tuple[float, float, set[Wish]]:
    """The loss, the gradient of the one weight, and what was agreed."""
    weight = torch.tensor(value, requires_grad=True)
    loss = wishes.carried_by(3 * weight)
    loss.backward()
    return loss.item(), weight.grad.item(), wishes.agreed()


def test_a_wish_comes_through_once_and_leaves_loss_and_gradients_alone(wishes: Wishes):
    thread = threading.Thread(target=wishes.ask, args=(Wish.CHECKPOINT,))
    thread.start()
    thread.join()
    assert step(wishes) == (6.0, 3.0, {Wish.CHECKPOINT})
    assert step(wishes) == (6.0, 3.0, set())


def test_wishes_add_up_until_they_are_sent(wishes: Wishes):
    wishes.ask(Wish.CHECKPOINT)
    wishes.leave()
    assert step(wishes)[2] == {Wish.CHECKPOINT, Wish.LEAVE}
    assert wishes.is_leaving


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_shows_by_itself(wishes: Wishes, value: float):
    assert step(wishes, value)[2] == {Wish.DIVERGED}
