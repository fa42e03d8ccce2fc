"""Prototxt files as C++'s parser takes them: bytes of any encoding in comments, blanks after a minus."""

from pathlib import Path

import numpy as np
import pytest

from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from cos_runtime.errors import UserError


@pytest.mark.parametrize(("encoding", "word"), [("latin-1", "réseau"), ("gbk", "网络"), ("utf-8", "网络")])
def test_comments_of_any_encoding(tmp_path: Path, encoding: str, word: str):
    path = tmp_path / "net.prototxt"
    path.write_text(f"# {word} \"\nname: 'a#b'  # {word}\nlayer {{ name: \"it's\" }}", encoding)
    net = prototxt.read_net(str(path))
    assert (net.name, net.layer[0].name) == ("a#b", "it's")


def test_an_error_after_such_a_comment_has_its_place(tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"# r\xe9seau\nname: 'n'\n  nam: 1 # \xe9")
    with pytest.raises(UserError, match=r'net.prototxt:3:3: .*no field named "nam"'):
        prototxt.read_net(str(path))


def test_a_string_that_is_not_utf8_is_told_by_its_line(tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"# r\xe9seau\nname: 'r\xe9seau'\n")
    with pytest.raises(UserError) as refused:
        prototxt.read_net(str(path))
    assert str(refused.value) == f"net {path}:2: a string is not UTF-8: save the file with that encoding"


def test_a_weights_file_is_not_text(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    blobs = {"ip": [np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)]}
    net = NetParameter(layer=[LayerParameter(name="ip", type="InnerProduct")])
    path.write_bytes(weights.serialize(net, blobs, SolverParameter.BINARYPROTO))
    with pytest.raises(UserError, match="is not text: a prototxt file is expected, not a binary one"):
        prototxt.read_net(str(path))


@pytest.mark.parametrize("text", ["base_lr: - 0.9", "base_lr: -\t.9", "base_lr: -\n 9e-1", "base_lr: -0.9"])
def test_blanks_after_a_minus(text: str):
    solver = prototxt.parse(f'net: "a - 1" # - 2\n{text} clip_gradients: - inf', SolverParameter(), "solver")
    assert solver.base_lr == pytest.approx(-0.9)
    assert (solver.net, solver.clip_gradients) == ("a - 1", float("-inf"))
