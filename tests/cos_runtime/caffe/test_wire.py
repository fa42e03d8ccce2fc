"""Large values pass protobuf by, and nothing else does."""

import numpy as np
import pytest

from cos_runtime.caffe import weights
from cos_runtime.caffe.schema import weights_pb2
from cos_runtime.caffe.wire import without_values

PATH = {100: {7: {5: None}}}
MARK = weights_pb2.Blob.TAKEN_FIELD_NUMBER


def net(*values: float) -> weights_pb2.Net:
    """A net with one layer, a blob a value."""
    message = weights_pb2.Net(name="n")
    layer = message.layer.add(name="ip", type="InnerProduct")
    for value in values:
        data = np.full(3, value, np.float32).tobytes()
        layer.blobs.add(data=data, shape=weights_pb2.BlobShape(dim=[3]), num=1)
    return message


def test_values_are_taken_out_and_numbered() -> None:
    taken: list[memoryview] = []
    rest = without_values(memoryview(net(1, 2).SerializeToString()), PATH, MARK, taken)
    expected = net(1, 2)
    for index, blob in enumerate(expected.layer[0].blobs):
        blob.ClearField("data")
        blob.taken = index
    assert weights_pb2.Net.FromString(rest) == expected
    assert [np.frombuffer(value, np.float32).tolist() for value in taken] == [[1] * 3, [2] * 3]


def test_weights_are_where_the_file_is() -> None:
    content = net(1, 2).SerializeToString()
    message = weights_pb2.Net.FromString(content)
    for blob in message.layer[0].blobs:
        blob.ClearField("num")  # else it has four fixed axes
    content = message.SerializeToString()
    (arrays,) = weights.parse(content, "it").values()
    assert [array.tolist() for array in arrays if array is not None] == [[1] * 3, [2] * 3]
    file = np.frombuffer(content, np.uint8)
    assert all(array is not None and np.shares_memory(array, file) for array in arrays)


def test_doubles_come_before_floats_as_in_caffe() -> None:
    message = weights_pb2.Net()
    blob = message.layer.add(name="ip").blobs.add(shape=weights_pb2.BlobShape(dim=[3]))
    blob.data, blob.double_data = np.zeros(3, np.float32).tobytes(), np.ones(3).tobytes()
    (array,) = weights.parse(message.SerializeToString(), "it")["ip"]
    assert array is not None
    assert array.tolist() == [1, 1, 1]


def test_a_number_that_the_file_has_itself_counts_for_nothing() -> None:
    message = net(1)
    message.layer[0].blobs[0].taken = 7
    rest = without_values(memoryview(message.SerializeToString()), PATH, MARK, [])
    assert weights_pb2.Net.FromString(rest).layer[0].blobs[0].taken == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (net(1).SerializeToString()[:-1], "it ends within a field"),
        (b"\x0a", "it ends within a number"),
        (b"\x0a\x80", "it ends within a number"),
        (b"\xff" * 12, "it ends within a number"),
        (b"\x0b\x0c", "wire type 3 is unknown"),
        (b"\x0d\x00", "it ends within a field"),
        (b"\xa0\x06\x01", "field 100 is not in one piece"),
    ],
)
def test_what_is_no_message_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        without_values(memoryview(content), PATH, MARK, [])
