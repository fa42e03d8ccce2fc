"""Which values of a blob are whose record's, in full batches and in smaller ones."""

import pytest
import torch
from torch import Tensor, nn

from cos_runtime.caffe import prototxt
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, NetParameter
from cos_runtime.engine.by_record import ByRecord

BATCH = 4
DATA = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 6 } } }'
RESHAPE = 'layer { name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param { shape { %s } } }'


class Looking(nn.Module):
    """Four values of a whole batch; it looks at one, where a shape alone has none."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0)[:4] + float(x.sum())


def net_of(text: str) -> Net:
    return Net(prototxt.parse(text, NetParameter(), "net"), TEST)


def test_classes_as_many_as_records_are_no_records():
    shapes = "shape { dim: 4 dim: 4 } shape { dim: 4 }"
    scores = f'layer {{ name: "in" type: "Input" top: "ip" top: "label" input_param {{ {shapes} }} }}'
    accuracy = 'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" top: "of_class" }'
    net = net_of(scores + accuracy)
    by_record = ByRecord(net, BATCH)
    labels = torch.tensor([0.0, 1, 1, 3])
    assert by_record.width("of_class") == 4
    for records, expected in ((4, [1, 0.5, 0, 1]), (3, [1, 0.5, 0, 0])):
        blobs = net({"ip": torch.eye(4)[:records], "label": labels[:records]})
        assert by_record.sums("of_class", blobs["of_class"], records).tolist() == [records * each for each in expected]
        assert by_record.sums("accuracy", blobs["accuracy"], records).tolist() == pytest.approx([records - 1])
        assert by_record.rows("label", blobs["label"], records).tolist() == [[each] for each in labels[:records]]


@pytest.mark.parametrize("dims", ["dim: -1 dim: 2", "dim: -1 dim: 3 dim: 2", "dim: 2 dim: -1 dim: 6", "dim: -1"])
@pytest.mark.parametrize("records", [2, 4])
def test_a_record_has_its_part_of_any_shape(dims: str, records: int):
    net = net_of(DATA + RESHAPE % dims)
    by_record = ByRecord(net, BATCH)
    data = torch.arange(6.0 * records).view(records, 6)
    blob = net({"data": data})["r"]
    assert by_record.width("r") == 6
    assert by_record.rows("r", blob, records).tolist() == data.tolist()


def test_of_a_batch_on_the_last_axis_a_record_is_a_column():
    layer = 'top { name: "x" sample_num_axes: 1 channels: 3 transpose: true } batch_size: 4'
    net = net_of(f'layer {{ name: "data" type: "CoSData" top: "x" cos_data_param {{ {layer} }} }}')
    by_record = ByRecord(net, BATCH)
    assert net.shapes["x"] == (3, 4)
    assert by_record.width("x") == 3
    assert by_record.rows("x", torch.arange(6).view(3, 2), 2).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_layer_that_looks_at_values_to_tell_its_shape():
    layer = f'python_param {{ module: "{__name__}" layer: "Looking" }}'
    net = net_of(f'{DATA} layer {{ name: "l" type: "Python" bottom: "data" top: "l" {layer} }}')
    assert ByRecord(net, BATCH).width("l") == 4


def test_a_net_that_takes_no_other_batch_has_it_on_the_first_axis():
    net = net_of(DATA + RESHAPE % "dim: 4 dim: 3 dim: 2" + 'layer { name: "s" type: "Reduction" bottom: "r" top: "s" }')
    by_record = ByRecord(net, BATCH)
    assert (by_record.width("r"), by_record.width("s")) == (6, 1)
