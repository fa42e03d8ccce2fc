"""The layout of blobs in memory, and the precision of products."""

import pytest
import torch

from cos_runtime.engine.numerics import Numerics
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


def test_two_ranks_learn_in_bfloat16(spark, job: JobFolder):
    exact = train(spark, job, "-clusterSize", "2")
    coarse = train(spark, job, "-clusterSize", "2", "-precision", "bfloat16", model="coarse.caffemodel")
    steps = metrics(job, "train")
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert all(blob.dtype == "float32" for blobs in coarse.values() for blob in blobs)
    # It differs, so it was used; it does not differ much.
    with pytest.raises(AssertionError):
        assert_same(exact, coarse, 1e-5)
    assert_same(exact, coarse, 0.2)
