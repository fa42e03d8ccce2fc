"""Fillers: the distribution of each type, by its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cos_runtime.caffe.fillers import FILLERS, fill
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import FillerParameter
from cos_runtime.errors import UserError

SHAPE = (40, 30, 10, 10)  # fan_in 3,000, fan_out 4,000


def filled(text: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    torch.manual_seed(4)
    return fill(torch.full(shape, math.nan), parse(text, FillerParameter(), "filler"))


def test_without_a_filler_a_blob_stays() -> None:
    assert fill(torch.ones(3), None).tolist() == [1, 1, 1]


def test_constant() -> None:
    assert torch.equal(filled("value: 1.5"), torch.full(SHAPE, 1.5))
    assert not filled('type: "constant"').any()


def test_uniform() -> None:
    blob = filled('type: "uniform" min: -1 max: 3')
    assert blob.min() >= -1
    assert blob.max() <= 3
    assert blob.mean().item() == pytest.approx(1, abs=0.02)
    assert blob.std().item() == pytest.approx(4 / math.sqrt(12), rel=0.01)


def test_gaussian() -> None:
    blob = filled('type: "gaussian" mean: 2 std: 0.5')
    assert blob.mean().item() == pytest.approx(2, abs=0.01)
    assert blob.std().item() == pytest.approx(0.5, rel=0.01)
    # A normal distribution, not another of that width: 4.55 % are beyond two deviations.
    assert ((blob - 2).abs() > 1).float().mean().item() == pytest.approx(0.0455, rel=0.05)


def test_gaussian_fills_a_blob_of_no_axes() -> None:
    assert fill(torch.zeros(()), FillerParameter(type="gaussian")).item() != 0


def test_sparse_gaussian_keeps_that_many_inputs_an_output() -> None:
    blob = filled('type: "gaussian" std: 1 sparse: 4')
    assert (blob != 0).float().mean().item() == pytest.approx(4 / 40, rel=0.03)
    assert blob[blob != 0].std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(("text", "share"), [("sparse: 0", 0), ("sparse: 40", 1), ("sparse: -1", 1)])
def test_a_sparse_gaussian_may_keep_none_or_all(text: str, share: int) -> None:
    assert (filled(f'type: "gaussian" {text}') != 0).float().mean() == share


def test_a_uniform_filler_may_have_one_value() -> None:
    assert torch.equal(filled('type: "uniform" min: 2 max: 2'), torch.full(SHAPE, 2.0))


def test_positive_unitball_sums_to_one() -> None:
    blob = filled('type: "positive_unitball"')
    assert blob.min() >= 0
    torch.testing.assert_close(blob.sum((1, 2, 3)), torch.ones(40))


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 3000), ("FAN_OUT", 4000), ("AVERAGE", 3500)])
def test_xavier_and_msra_have_the_variance_of_their_fan(norm: str, fan: int) -> None:
    xavier = filled(f'type: "xavier" variance_norm: {norm}')
    assert xavier.abs().max().item() == pytest.approx(math.sqrt(3 / fan), rel=1e-3)
    assert xavier.var().item() == pytest.approx(1 / fan, rel=0.02)
    msra = filled(f'type: "msra" variance_norm: {norm}')
    assert msra.var().item() == pytest.approx(2 / fan, rel=0.02)
    assert msra.abs().max() > 3 * math.sqrt(2 / fan)


def test_bilinear_enlarges_evenly() -> None:
    blob = filled('type: "bilinear"', (2, 1, 4, 4))
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(blob, (line[:, None] * line).expand(2, 1, 4, 4))
    assert filled('type: "bilinear"', (1, 1, 3, 3))[0, 0, 1].tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("kind", sorted(set(FILLERS) - {"bilinear"}))
@pytest.mark.parametrize("shape", [(), (7,), (7, 2)])
def test_every_type_fills_a_blob_of_few_axes(kind: str, shape: tuple[int, ...]) -> None:
    assert filled(f'type: "{kind}"', shape).isfinite().all()


def test_same_seed_same_values() -> None:
    assert torch.equal(filled('type: "msra"'), filled('type: "msra"'))


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ('type: "orthogonal"', (2, 2), 'filler type "orthogonal" is unknown: use one of bilinear, constant, gaussian'),
        ('type: "xavier" sparse: 3', (2, 2), 'filler type "xavier" has no sparse form'),
        ('type: "uniform" min: 2 max: 1', (2,), "has min 2 and max 1: max must be min or more"),
        ('type: "uniform" min: nan', (2,), "has min nan and max 1"),
        ('type: "gaussian" std: 0', (2,), "has std 0: it must be more than 0"),
        ('type: "gaussian" std: -1', (2,), "has std -1: it must be more than 0"),
        ('type: "gaussian" std: nan', (2,), "has std nan"),
        ('type: "gaussian" sparse: -2', (2, 9), "has sparse -2 for a blob of 2 outputs: give 0 to 2 weights"),
        ('type: "gaussian" sparse: 3', (2, 9), "has sparse 3 for a blob of 2 outputs"),
        ('type: "bilinear"', (2, 1, 4, 3), r"square filters, not \(2, 1, 4, 3\)"),
        ('type: "bilinear"', (4, 4), r"needs a blob of 4 axes"),
    ],
)
def test_refuses_what_it_cannot_fill(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        filled(text, shape)
