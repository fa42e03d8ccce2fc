"""Solvers against twelve steps of Caffe's own, and against the published formulas in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, NetParameter, SolverParameter
from cos_runtime.caffe.solver import RULES, LearningRate, Rows, SmoothedLoss, Solver
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe import reference_cases

# Blobs with all the multipliers that matter: other ones than 1, no decay, and a frozen layer.
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { lr_mult: 0.5 decay_mult: 3 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "frozen" type: "InnerProduct" bottom: "b" top: "c" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
MULTIPLIERS = [(1, 1), (2, 0), (0.5, 3), (1, 1), (0, 1), (0, 1)]


def net(text: str = NET) -> Net:
    torch.manual_seed(3)
    return Net(parse(text, NetParameter(), "net"), TRAIN)


def solver_param(text: str) -> SolverParameter:
    return parse(text, SolverParameter(), "solver")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = sorted(reference_cases.folder(metafunc.config, "solvers").glob("*.npz"))
        metafunc.parametrize("case", files, ids=[file.stem for file in files])


def test_repeats_caffe_step_by_step(case: Path) -> None:
    values = np.load(case, allow_pickle=False)
    param = solver_param(str(values["solver"]))
    tiny = net(str(values["net"]))
    initial = {name: [] for name, _ in tiny.named_layers()}
    for blob in tiny.learnable:
        initial[blob.layer].append(values[f"init/{blob.layer}/{blob.index}"])
    tiny.copy_weights(initial, str(case))
    solver = Solver(param, tiny)
    rows = iter(zip(torch.from_numpy(values["data"]), torch.from_numpy(values["label"]), strict=True))
    for step in range(sum(key.startswith("loss/") for key in values)):
        for _ in range(param.iter_size):
            data, label = next(rows)
            loss = tiny.loss(tiny({"data": data, "label": label}))
            loss.backward()
        # The file has the loss blob, which the last pass of a step leaves.
        assert reference_cases.error(loss.detach().numpy(), values[f"loss/{step}"]) <= 1e-5
        solver.step()
        for blob in tiny.learnable:
            ours = blob.parameter.detach().numpy()
            error = reference_cases.error(ours, values[f"step{step}/{blob.layer}/{blob.index}"])
            assert error <= 1e-5, f"step {step}, {blob.layer}/{blob.index}"


# A formula takes the first weights of a blob; what it returns takes a gradient and a rate and gives the next weights.
Step = Callable[[np.ndarray, float], np.ndarray]
Formula = Callable[[np.ndarray, SolverParameter], Step]


def sgd(w: np.ndarray, p: SolverParameter) -> Step:
    v = np.zeros_like(w)

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal w, v
        v = p.momentum * v - rate * g
        w = w + v
        return w

    return step


def nesterov(w: np.ndarray, p: SolverParameter) -> Step:
    """Sutskever et al. 2013: the gradient is taken at theta + mu v, which is what the net's weights are."""
    theta, v = w, np.zeros_like(w)

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal theta, v
        v = p.momentum * v - rate * g
        theta = theta + v
        return theta + p.momentum * v

    return step


def adagrad(w: np.ndarray, p: SolverParameter) -> Step:
    """Duchi et al. 2011."""
    past: list[np.ndarray] = []

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal w
        past.append(g)
        w = w - rate * g / (np.sqrt(np.sum(np.square(past), axis=0)) + p.delta)
        return w

    return step


def rmsprop(w: np.ndarray, p: SolverParameter) -> Step:
    """Tieleman and Hinton 2012."""
    square = np.zeros_like(w)

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal w, square
        square = p.rms_decay * square + (1 - p.rms_decay) * g**2
        w = w - rate * g / (np.sqrt(square) + p.delta)
        return w

    return step


def adadelta(w: np.ndarray, p: SolverParameter) -> Step:
    """Zeiler 2012: the ratio of the RMS of steps to the RMS of gradients."""
    squares = {"g": np.zeros_like(w), "x": np.zeros_like(w)}

    def rms(name: str) -> np.ndarray:
        return np.sqrt(squares[name] + p.delta)

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal w
        squares["g"] = p.momentum * squares["g"] + (1 - p.momentum) * g**2
        x = -rms("x") / rms("g") * g
        squares["x"] = p.momentum * squares["x"] + (1 - p.momentum) * x**2
        w = w + rate * x
        return w

    return step


def adam(w: np.ndarray, p: SolverParameter) -> Step:
    """Kingma and Ba 2015, in the order of computation that their section 2 ends with."""
    m, v, t = np.zeros_like(w), np.zeros_like(w), 0

    def step(g: np.ndarray, rate: float) -> np.ndarray:
        nonlocal w, m, v, t
        t += 1
        m = p.momentum * m + (1 - p.momentum) * g
        v = p.momentum2 * v + (1 - p.momentum2) * g * g
        w = w - rate * math.sqrt(1 - p.momentum2**t) / (1 - p.momentum**t) * m / (np.sqrt(v) + p.delta)
        return w

    return step


FORMULAS: dict[str, tuple[Formula, str]] = {
    "SGD": (sgd, "momentum: 0.9"),
    "Nesterov": (nesterov, "momentum: 0.95"),
    "AdaGrad": (adagrad, "delta: 1e-6"),
    "RMSProp": (rmsprop, "rms_decay: 0.9 delta: 1e-4"),
    "AdaDelta": (adadelta, "momentum: 0.9 delta: 1e-6"),
    "Adam": (adam, "momentum: 0.8 momentum2: 0.99 delta: 1e-7"),
}


@pytest.mark.parametrize(
    "extra",
    ["", "weight_decay: 0.02", 'weight_decay: 0.02 regularization_type: "L1"', "clip_gradients: 1.5",
     "iter_size: 3 clip_gradients: 2 weight_decay: 0.01"],
    ids=["plain", "l2", "l1", "clip", "all"],
)  # fmt: skip
@pytest.mark.parametrize("name", FORMULAS)
def test_follows_the_published_formula(name: str, extra: str) -> None:
    formula, values = FORMULAS[name]
    param = solver_param(f'type: "{name}" base_lr: 0.05 lr_policy: "exp" gamma: 0.9 {values} {extra}')
    trained = net()
    solver = Solver(param, trained)
    blobs = [blob.parameter for blob in trained.learnable]
    expected = [blob.detach().numpy().astype(np.float64) for blob in blobs]
    steps = [formula(weights, param) for weights in expected]
    random = np.random.default_rng(5)
    for iteration in range(8):
        gradients = [random.normal(size=blob.shape).astype(np.float32) for blob in blobs]
        for blob, gradient, (lr_mult, _) in zip(blobs, gradients, MULTIPLIERS, strict=True):
            blob.grad = torch.from_numpy(gradient.copy()) if lr_mult else None
        norm = math.sqrt(
            sum((g.astype(np.float64) ** 2).sum() for g, m in zip(gradients, MULTIPLIERS, strict=True) if m[0])
        )
        clip = min(1, param.clip_gradients / norm) if param.clip_gradients > 0 else 1
        for index, (lr_mult, decay_mult) in enumerate(MULTIPLIERS):
            if lr_mult:
                weights = expected[index]
                decay = np.sign(weights) if param.regularization_type == "L1" else weights
                gradient = gradients[index] * clip / param.iter_size + param.weight_decay * decay_mult * decay
                expected[index] = steps[index](gradient, 0.05 * 0.9**iteration * lr_mult)
        solver.step()
        for blob, weights in zip(blobs, expected, strict=True):
            assert reference_cases.error(blob.detach().numpy(), weights) <= 1e-5


@pytest.mark.parametrize(
    ("policy", "rate"),
    [
        ('lr_policy: "fixed"', lambda i: 0.1),
        ('lr_policy: "step" gamma: 0.5 stepsize: 7', lambda i: 0.1 * 0.5 ** (i // 7)),
        ('lr_policy: "exp" gamma: 0.97', lambda i: 0.1 * 0.97**i),
        ('lr_policy: "inv" gamma: 0.01 power: 0.75', lambda i: 0.1 * (1 + 0.01 * i) ** -0.75),
        (
            'lr_policy: "multistep" gamma: 0.1 stepvalue: 3 stepvalue: 11',
            lambda i: 0.1 * 0.1 ** ((i >= 3) + (i >= 11)),
        ),
        ('lr_policy: "poly" power: 2.5 max_iter: 30', lambda i: 0.1 * (1 - i / 30) ** 2.5),
        ('lr_policy: "sigmoid" gamma: 0.3 stepsize: 12', lambda i: 0.1 / (1 + math.exp(-0.3 * (i - 12)))),
    ],
    ids=["fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"],
)
def test_rate_of_each_policy(policy: str, rate: Callable[[int], float]) -> None:
    rates, current_step = LearningRate(solver_param(f"base_lr: 0.1 {policy}")), 0
    for iteration in range(31):
        ours, current_step = rates.at(iteration, current_step)
        # A float has 24 bits, and 1 - 29/30 in floats has lost some of them.
        assert ours == pytest.approx(rate(iteration), rel=5e-6, abs=1e-12)
        assert ours == float(np.float32(ours))


def test_rates_beyond_a_float_are_those_of_c() -> None:
    assert LearningRate(solver_param('base_lr: 1 lr_policy: "exp" gamma: 9')).at(10_000, 0)[0] == math.inf
    assert LearningRate(solver_param('base_lr: 1 lr_policy: "sigmoid" gamma: 9 stepsize: 10000')).at(0, 0)[0] == 0


def test_multistep_takes_one_step_an_iteration_at_most() -> None:
    rates = LearningRate(solver_param('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 2'))
    step, seen = 0, []
    for iteration in range(5):
        rate, step = rates.at(iteration, step)
        seen.append((rate, step))
    assert seen == [(1, 0), (1, 0), (0.5, 1), (0.25, 2), (0.25, 2)]


def test_asking_for_the_rate_changes_nothing() -> None:
    solver = Solver(solver_param('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 0'), net())
    assert [solver.rate, solver.rate, solver.current_step] == [0.5, 0.5, 0]
    solver.step()
    assert [solver.rate, solver.current_step, solver.iteration] == [0.5, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_lr: 1", r'lr_policy "" is unknown: use one of exp, fixed, inv, multistep, poly, sigmoid, step'),
        ('base_lr: 1 lr_policy: "cosine"', r'lr_policy "cosine" is unknown: use one of exp, fixed'),
        ('lr_policy: "fixed"', "needs base_lr"),
        ('base_lr: 1 lr_policy: "step" gamma: 0.1', 'lr_policy "step" needs stepsize'),
        ('base_lr: 1 lr_policy: "step" stepsize: 10', 'lr_policy "step" needs gamma'),
        ('base_lr: 1 lr_policy: "step"', "needs gamma and stepsize"),
        ('base_lr: 1 lr_policy: "step" gamma: 0.1 stepsize: 0', "stepsize is 0, it must be 1 or more"),
        ('base_lr: 1 lr_policy: "exp" gamma: -1', "gamma is -1, it must be 0 or more"),
        ('base_lr: 1 lr_policy: "inv" gamma: 1', "needs power"),
        ('base_lr: 1 lr_policy: "multistep" gamma: 1', "needs stepvalue"),
        ('base_lr: 1 lr_policy: "poly" power: 1', "needs max_iter"),
        ('base_lr: 1 lr_policy: "sigmoid" gamma: 1', "needs stepsize"),
        ('base_lr: 1 lr_policy: "fixed" type: "Adamax"', 'type "Adamax" is unknown: use one of SGD, Nesterov'),
        ('base_lr: 1 lr_policy: "fixed" type: "SGD" solver_type: ADAM', "both type and the legacy solver_type"),
        ('base_lr: 1 lr_policy: "fixed" type: "AdaGrad" momentum: 0.9', "momentum is 0.9: a solver of type AdaGrad"),
        ('base_lr: 1 lr_policy: "fixed" solver_type: RMSPROP momentum: 0.9', "a solver of type RMSProp has none"),
        ('base_lr: 1 lr_policy: "fixed" type: "RMSProp" rms_decay: 1', "rms_decay is 1"),
        ('base_lr: 1 lr_policy: "fixed" type: "Adam" momentum: 1', "momentum is 1"),
        ('base_lr: 1 lr_policy: "fixed" type: "Adam" momentum2: 1.5', "momentum2 is 1.5"),
        ('base_lr: 1 lr_policy: "fixed" regularization_type: "L3"', 'regularization_type "L3" is unknown'),
        ('base_lr: 1 lr_policy: "fixed" iter_size: 0', "iter_size is 0: it must be 1 or more"),
        ('base_lr: 1 lr_policy: "fixed" average_loss: 0', "average_loss is 0: it must be 1 or more"),
    ],
)
def test_refuses_what_caffe_refuses(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Solver(solver_param(text), net())


@pytest.mark.parametrize("legacy", ["SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM"])
def test_knows_the_legacy_solver_type(legacy: str) -> None:
    solver = Solver(solver_param(f'base_lr: 1 lr_policy: "fixed" solver_type: {legacy}'), net())
    assert solver.type.upper() == legacy


@pytest.mark.parametrize("name", RULES)
def test_gradients_stay_where_they_are_and_are_zeroed(name: str) -> None:
    """Ranks exchange gradients in buckets, of which each is a view."""
    trained = net()
    param = f'type: "{name}" base_lr: 0.1 lr_policy: "fixed" clip_gradients: 1 weight_decay: 0.1 iter_size: 2'
    solver = Solver(solver_param(param), trained)
    blobs = [blob.parameter for blob in trained.learnable if blob.lr_mult]
    bucket = torch.ones(sum(blob.numel() for blob in blobs))
    views = list(split_like(bucket, blobs))
    for blob, view in zip(blobs, views, strict=True):
        blob.grad = view
    before = [blob.detach().clone() for blob in blobs]
    solver.step()
    assert all(blob.grad is view for blob, view in zip(blobs, views, strict=True))
    assert not bucket.any()
    assert not any(torch.equal(blob, old) for blob, old in zip(blobs, before, strict=True))


def split_like(bucket: torch.Tensor, blobs: list[torch.nn.Parameter]) -> Iterator[torch.Tensor]:
    start = 0
    for blob in blobs:
        yield bucket[start : start + blob.numel()].view(blob.shape)
        start += blob.numel()


LARGE = """
input: "data" input_shape { dim: 1 dim: 16 dim: 4 dim: 4 }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 2048 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  inner_product_param { num_output: 40 weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("extra", ["weight_decay: 0.01", "clip_gradients: 0.1 iter_size: 2"])
@pytest.mark.parametrize("name", RULES)
def test_parts_that_arrive_one_after_the_other_make_the_same_step(name: str, extra: str) -> None:
    param = solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed" {extra}')

    def train(*, in_parts: bool) -> dict[str, list[np.ndarray]]:
        torch.manual_seed(1)
        trained = net(LARGE).to(memory_format=torch.channels_last)
        solver = Solver(param, trained)
        for _ in range(3):
            coming = []
            for blob in (each.parameter for each in trained.learnable):
                gradient = torch.randn(blob.shape)
                # What has not arrived yet is not to be looked at.
                blob.grad = torch.full_like(blob, torch.nan) if in_parts else torch.empty_like(blob).copy_(gradient)
                coming += [(rows, gradient) for rows in Rows.all_of(blob).cut(100_000)]
            solver.step(arriving(coming) if in_parts else ())
        return trained.weights()

    def arriving(coming: list[tuple[Rows, torch.Tensor]]) -> Iterator[list[Rows]]:
        for rows, gradient in coming:
            assert rows.parameter.grad is not None
            rows.of(rows.parameter.grad).copy_(rows.of(gradient))
            yield [rows]

    whole, parts = train(in_parts=False), train(in_parts=True)
    for layer, blobs in whole.items():
        for ours, theirs in zip(parts[layer], blobs, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_weight_decay_reaches_blobs_without_a_gradient_but_not_frozen_ones() -> None:
    trained = net()
    solver = Solver(solver_param('base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.5'), trained)
    before = trained.weights()
    solver.step()
    after = trained.weights()
    np.testing.assert_allclose(after["a"][0], before["a"][0] * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(after["b"][0], before["b"][0] * (1 - 0.1 * 0.5 * 0.5 * 3), rtol=1e-6)
    np.testing.assert_array_equal(after["frozen"][0], before["frozen"][0])
    assert all(blob.parameter.grad is None for blob in trained.learnable)


@pytest.mark.parametrize("name", RULES)
def test_weight_decay_alone_makes_the_history_of_a_frozen_layer(name: str) -> None:
    """Caffe makes its update too, and multiplies it by a rate of 0."""
    trained = net()
    solver = Solver(solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.5'), trained)
    before = trained.weights()["frozen"]
    decayed = 0.5 * before[0]
    for _ in range(2):
        solver.step()
    np.testing.assert_array_equal(trained.weights()["frozen"][0], before[0])
    history = solver.state().history[4]
    factor = {"AdaGrad": 2, "RMSProp": 0.01 + 0.99 * 0.01, "AdaDelta": 1}.get(name)
    if name == "Adam":
        np.testing.assert_allclose(history, decayed, rtol=1e-6)
    elif factor:
        np.testing.assert_allclose(history, factor * decayed**2, rtol=1e-5)
    else:
        assert not history.any()


def test_gradients_of_a_rate_of_0_count_for_the_clipping_and_no_weight() -> None:
    trained = net("force_backward: true " + NET)
    solver = Solver(solver_param('base_lr: 1 lr_policy: "fixed" clip_gradients: 1'), trained)
    before = trained.weights()
    for _ in range(2):
        for blob in trained.learnable:
            blob.parameter.grad = torch.full_like(blob.parameter, 2.0)
        solver.step()
    count = sum(blob.parameter.numel() for blob in trained.learnable)
    after = trained.weights()
    np.testing.assert_allclose(before["a"][0] - after["a"][0], np.full((4, 5), 2 / math.sqrt(count)), rtol=1e-5)
    for ours, old in zip(after["frozen"], before["frozen"], strict=True):
        np.testing.assert_array_equal(ours, old)


def test_a_net_of_frozen_layers_alone_only_counts() -> None:
    trained = net(
        NET.replace("lr_mult: 1", "lr_mult: 0").replace("lr_mult: 2", "lr_mult: 0").split('layer { name: "b"')[0]
    )
    solver = Solver(solver_param('base_lr: 0.1 lr_policy: "fixed" clip_gradients: 1 iter_size: 2'), trained)
    solver.step()
    assert solver.iteration == 1


@pytest.mark.parametrize(
    ("name", "moved"),
    [("SGD", [0.2, 0.3, 0.35]), ("Nesterov", [0.1, 0.15, 0.175]), ("Adam", [0, 0, 0])],
)
def test_what_was_frozen_since_the_snapshot_comes_to_rest_as_in_caffe(name: str, moved: list[float]) -> None:
    trained = net()
    solver = Solver(solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed" momentum: 0.5'), trained)
    state = solver.state()
    frozen = next(index for index, blob in enumerate(trained.learnable) if blob.layer == "frozen")
    state.history[frozen][:] = 0.4
    solver.restore(state)
    before = trained.learnable[frozen].parameter.detach().clone()
    for expected in moved:
        solver.step()
        gone = before - trained.learnable[frozen].parameter.detach()
        torch.testing.assert_close(gone, torch.full_like(gone, expected))
    if name != "Adam":
        assert solver.state().history[frozen] == pytest.approx(0.05)


@pytest.mark.parametrize("name", RULES)
def test_goes_on_from_a_state_as_if_it_had_never_stopped(name: str) -> None:
    param = solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 6')

    def train(solver: Solver, steps: int) -> None:
        for _ in range(steps):
            for index, blob in enumerate(solver._learnable):
                generator = torch.Generator().manual_seed(100 * solver.iteration + index)
                blob.parameter.grad = torch.randn(blob.parameter.shape, generator=generator)
            solver.step()

    whole = net()
    train(Solver(param, whole), 9)
    first, second = net(), net()
    stopped = Solver(param, first)
    train(stopped, 5)
    second.copy_weights(first.weights(), "weights")
    resumed = Solver(param, second)
    resumed.restore(stopped.state())
    assert (resumed.iteration, resumed.current_step) == (5, 1)
    train(resumed, 4)
    for layer, blobs in whole.weights().items():
        for ours, theirs in zip(second.weights()[layer], blobs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "count"), [("SGD", 6), ("AdaGrad", 6), ("AdaDelta", 12), ("Adam", 12)])
def test_history_has_the_order_and_shapes_of_caffe(name: str, count: int) -> None:
    trained = net()
    solver = Solver(solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed"'), trained)
    for blob in trained.learnable:
        blob.parameter.grad = torch.ones_like(blob.parameter) if blob.lr_mult else None
    solver.step()
    history = solver.state().history
    shapes = [tuple(blob.parameter.shape) for blob in trained.learnable]
    assert [blob.shape for blob in history] == shapes * (count // 6)
    assert [bool(blob.any()) for blob in history] == [True, True, True, True, False, False] * (count // 6)
    assert all(blob.dtype == np.float32 for blob in history)


def test_history_has_places_for_what_a_layer_keeps_itself() -> None:
    """Caffe counts BatchNorm's sums among a solver's blobs, with a rate of 0."""
    trained = net("""
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
            inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
    layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "bn" }
    layer { name: "scale" type: "Scale" bottom: "bn" top: "y" }
    """)
    solver = Solver(solver_param('base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.1'), trained)
    trained({"x": torch.randn(4, 3)})["y"].square().sum().backward()
    before = trained.weights()["bn"]
    solver.step()
    assert [blob.shape for blob in solver.state().history] == [(2, 3), (2,), (2,), (2,), (1,), (2,)]
    for ours, old in zip(trained.weights()["bn"], before, strict=True):
        assert old.any()
        np.testing.assert_array_equal(ours, old)


def state_of(name: str) -> SolverState:
    trained = net()
    solver = Solver(solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed"'), trained)
    for blob in trained.learnable:
        blob.parameter.grad = -torch.ones_like(blob.parameter)
    solver.step()
    return solver.state()


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("SGD", "Adam", "x.solverstate has 12 history blobs, where type SGD has 6 for the 6 parameter blobs"),
        ("AdaDelta", "Nesterov", "x.solverstate has 6 history blobs, where type AdaDelta has 12"),
        ("AdaGrad", "SGD", "history blob 0 in x.solverstate has negative values, which type AdaGrad has not"),
        ("AdaDelta", "Adam", "history blob 0 in x.solverstate has negative values"),
    ],
)
def test_refuses_the_state_of_another_type(name: str, other: str, message: str) -> None:
    solver = Solver(solver_param(f'type: "{name}" base_lr: 0.1 lr_policy: "fixed"'), net())
    with pytest.raises(UserError, match=message):
        solver.restore(state_of(other), "x.solverstate")


def test_refuses_the_state_of_another_net_and_names_the_blob() -> None:
    state = state_of("SGD")
    state.history[2] = np.zeros((3, 5), np.float32)
    solver = Solver(solver_param('base_lr: 0.1 lr_policy: "fixed"'), net())
    with pytest.raises(UserError, match=r'history blob 2 in x has the shape \(3, 5\) where .* layer "b" has \(3, 4\)'):
        solver.restore(state, "x")
    assert solver.iteration == 0
    assert not any(blob.any() for blob in solver.history)


def test_takes_a_history_of_four_axes() -> None:
    state = state_of("SGD")
    state.history[0] = state.history[0].reshape(1, 1, 4, 5)
    solver = Solver(solver_param('base_lr: 0.1 lr_policy: "fixed"'), net())
    solver.restore(state, "x")
    np.testing.assert_array_equal(solver.state().history[0], state.history[0].reshape(4, 5))


def test_smoothed_loss_is_the_mean_of_the_last_ones() -> None:
    loss = SmoothedLoss(3)
    means = []
    for value in (4.0, 2.0, 3.0, 7.0, 2.0):
        loss.add(torch.tensor(value))
        means.append(float(loss.mean()))
    assert means == [4, 3, 3, 4, 4]
