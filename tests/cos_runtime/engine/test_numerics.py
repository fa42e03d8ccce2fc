"""The layout of blobs in memory, and the precision of products."""

import math

import pytest
import torch

from cos_runtime.caffe import prototxt, solverstate
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, NetParameter, SolverParameter
from cos_runtime.caffe.solver import Solver
from cos_runtime.engine.loss_scale import LossScale
from cos_runtime.engine.numerics import Numerics
from cos_runtime.errors import UserError
from tests.fixtures.jobs import JobFolder, MakeJob
from tests.fixtures.training import assert_same, metrics, train

CPU = torch.device("cpu")
CONVOLUTION = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
"""


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_nets_and_blobs_have_the_layout_and_their_values(memory_format: str):
    numerics = Numerics(memory_format)
    net, image, label = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5), torch.arange(2)
    weight = net.weight.detach().clone()
    numerics.prepare(net, CPU)
    blobs = numerics.blobs({"data": image, "label": label}, CPU)
    for blob, values in ((net.weight, weight), (blobs["data"], image)):
        assert blob.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")
        assert torch.equal(blob, values)
    assert torch.equal(blobs["label"], label)


@pytest.fixture
def job(make_job: MakeJob) -> JobFolder:
    """A job whose net begins with a convolution."""
    made = make_job(max_iter=40, solver="display: 10")
    net = made.path / "net.prototxt"
    first = 'layer { name: "ip1" type: "InnerProduct" bottom: '
    net.write_text(net.read_text().replace(f'{first}"data"', f'{CONVOLUTION}{first}"pool"'))
    return made


def test_the_layout_changes_no_result(spark, job: JobFolder):
    ours = train(spark, job)
    assert_same(ours, train(spark, job, "-memory_format", "contiguous", model="contiguous.caffemodel"), 1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_two_ranks_learn_in_half_the_bits(spark, job: JobFolder, precision: str):
    exact = train(spark, job, "-clusterSize", "2")
    coarse = train(spark, job, "-clusterSize", "2", "-precision", precision, model="coarse.caffemodel")
    steps = metrics(job, "train")
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert all(blob.dtype == "float32" for blobs in coarse.values() for blob in blobs)
    # It differs, so it was used; it does not differ much.
    with pytest.raises(AssertionError):
        assert_same(exact, coarse, 1e-5)
    assert_same(exact, coarse, 0.2)


def test_half_precision_needs_the_gradient_from_above(spark, make_job: MakeJob):
    doubled = 'layer { name: "doubled" type: "Power" bottom: "ip1" top: "ip1" power_param { scale: 2 } }'
    with pytest.raises(UserError, match='layer "doubled": in place it loses the scale of the loss that -precision fl'):
        train(spark, make_job(extra=doubled), "-precision", "float16")


def test_a_resumed_float16_run_repeats_the_undisturbed_one(spark, job: JobFolder):
    solver = job.path / "solver.prototxt"
    solver.write_text(f'{solver.read_text()} snapshot: 15 snapshot_prefix: "snap"')
    expected = train(spark, job, "-precision", "float16")
    state, model = job.file("snap_iter_15.solverstate"), job.file("snap_iter_15.caffemodel")
    assert (solverstate.read(state).loss_scale, solverstate.read(state).loss_scale_age) == (2.0**16, 15)
    for later in [*job.path.glob("snap_iter_30.*"), *job.path.glob("snap_iter_40.*")]:
        later.unlink()
    resumed = ("-snapshot", state, "-weights", model, "-precision", "float16")
    assert_same(train(spark, job, *resumed, model="resumed.caffemodel"), expected, 0)


@pytest.fixture
def solver() -> Solver:
    """A solver of a net with one weight, 1, whose rate is 1."""
    net = prototxt.parse(
        """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 } } }
           layer { name: "ip" type: "InnerProduct" bottom: "data" top: "loss" loss_weight: 1
             inner_product_param { num_output: 1 bias_term: false weight_filler { type: "constant" value: 1 } } }""",
        NetParameter(),
        "net",
    )
    param = prototxt.parse('base_lr: 1 lr_policy: "fixed"', SolverParameter(), "solver")
    return Solver(param, Net(net, TRAIN))


def test_a_gradient_that_overflows_leaves_the_weights_and_halves_the_scale(solver: Solver):
    scale = LossScale(Numerics(precision="float16"), CPU, solver)
    (weight,) = solver.param_groups[0]["params"]
    for gradient, expected in ((0.25, 0.75), (math.inf, 0.75), (0.25, 0.5)):
        scale.scaled((weight * gradient).sum()).backward()
        scale.step()
        assert weight.item() == expected
    assert solver.iteration == 3
    assert scale.state == (2.0**15, 1)


def test_a_scale_goes_on_from_its_state(solver: Solver):
    scale = LossScale(Numerics(precision="float16"), CPU, solver)
    scale.restore(8.0, 1999)
    (weight,) = solver.param_groups[0]["params"]
    scaled = scale.scaled(weight.sum())
    assert scaled.item() == 8
    scaled.backward()
    scale.step()
    assert scale.state == (16.0, 0)


def test_other_precisions_have_no_scale(solver: Solver):
    scale = LossScale(Numerics(precision="bfloat16"), CPU, solver)
    (weight,) = solver.param_groups[0]["params"]
    scale.scaled((weight * 0.25).sum()).backward()
    scale.step()
    assert (weight.item(), scale.state) == (0.75, None)
