"""The tools that time, draw, upgrade, export nets and import their weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, LayerParameter, NetParameter, SolverParameter
from cos_runtime.tools import _data_shapes, draw, export, forward, import_torch, time, upgrade
from cos_runtime.tools._net_file import NetFile

EXAMPLES = Path(__file__).parents[3] / "examples"
LENET = Path(__file__).parents[1] / "caffe" / "reference" / "lenet"

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "bn_conv1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale_conv1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "conv1_relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc1000" type: "InnerProduct" bottom: "pool" top: "fc1000"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""


class Twin(nn.Module):
    """The same net in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2).flatten(1))
        return y


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.prototxt"
    path.write_text(SMALL)
    return str(path)


def test_every_layer_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--iterations", "2", "--data-shape", "data=2x1x28x28", "--data-shape", "label=2"]
    assert time.main([str(EXAMPLES / "mnist" / "lenet_train_test.prototxt"), *options]) == 0
    *rows, forwards, backwards, both, total = capsys.readouterr().out.splitlines()
    times = {name: (float(there), float(back)) for name, _, there, back in map(str.split, rows[1:])}
    assert list(times) == ["data", "conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "loss"]
    assert all(there > 0 and back > 0 for name, (there, back) in times.items() if name != "data")
    sums = [float(re.findall(r"[\d.]+", line)[0]) for line in (forwards, backwards, both, total)]
    assert sums[0] == pytest.approx(sum(there for there, _ in times.values()), abs=0.01)
    assert sums[2:] == pytest.approx([sums[0] + sums[1], 2 * sums[2]], abs=0.1)


def test_timing_computes_the_gradients_of_the_whole_net(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL + 'layer { name: "sum" type: "Eltwise" bottom: "fc1000" bottom: "fc1000" top: "sum" }'
    net = Net(prototxt.parse(text, NetParameter(), "net"), TEST)
    inputs = {"data": torch.rand(2, 3, 8, 8)}
    found: dict[int, torch.Tensor] = {}
    grad = torch.autograd.grad

    def noting(outputs: object, wanted: list[torch.Tensor], *rest: object, **options: object) -> object:
        gradients = grad(outputs, wanted, *rest, **options)  # type: ignore[arg-type]
        found.update({id(each): value for each, value in zip(wanted, gradients, strict=True)})
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", noting)
    time.measure(net, inputs, 1)
    net(inputs)["sum"].sum().backward()
    own = [blob.parameter for blob in net.learnable if blob.parameter.grad is not None]
    assert len(own) == 5
    for parameter in own:
        torch.testing.assert_close(found[id(parameter)], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_net_is_drawn(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"net.{kind}"
    assert draw.main([str(EXAMPLES / "nets" / "squeezenet_deploy.prototxt"), str(out), "--shapes"]) == 0
    assert "67 layers in 40 boxes" in capsys.readouterr().out
    if kind == "svg":
        content = out.read_text()
        assert "fire9/concat (Concat)" in content
        assert "fire9/concat: 10 x 512 x 14 x 14" in content
    else:
        with Image.open(out) as image:
            assert image.height > image.width > 300
            assert len(image.getcolors(1 << 24) or ()) > 10


def test_boxes_hold_the_layers_that_work_in_place() -> None:
    found = draw.boxes(prototxt.parse(SMALL, NetParameter(), "net"))
    assert [len(box.lines) for box in found] == [1, 5, 2, 2]
    assert [box.above for box in found] == [{}, {0: ["data"]}, {1: ["conv1"]}, {2: ["pool"]}]
    places = draw.places(found)
    assert [y for _, y in places] == sorted(y for _, y in places)


def test_branches_do_not_overlap() -> None:
    found = draw.boxes(prototxt.read_net(str(EXAMPLES / "nets" / "googlenet_deploy.prototxt")))
    centres = draw.places(found)
    boxes = [(x, y, box.width / 2, box.height / 2) for (x, y), box in zip(centres, found, strict=True)]
    for index, (x, y, w, h) in enumerate(boxes):
        assert all(abs(x - a) >= w + b or abs(y - c) >= h + d for a, c, b, d in boxes[:index])


OLD = """
name: "old"
layers { name: "d" type: DATA top: "d" data_param { source: "x" batch_size: 2 crop_size: 8 } }
layers { name: "c" type: CONVOLUTION bottom: "d" top: "c" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 2 kernel_size: 3 } }
"""


def test_an_old_net_becomes_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "old").write_text(OLD)
    assert upgrade.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    net = text_format.Parse((tmp_path / "new").read_text(), NetParameter())
    assert not net.layers
    assert [layer.type for layer in net.layer] == ["Data", "Convolution"]
    assert [spec.lr_mult for spec in net.layer[1].param] == [1, 2]


def test_an_old_solver_becomes_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "old").write_text('net: "net" solver_type: ADAGRAD')
    assert upgrade.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    solver = text_format.Parse((tmp_path / "new").read_text(), SolverParameter())
    assert (solver.type, solver.HasField("solver_type")) == ("AdaGrad", False)


def test_an_old_caffemodel_becomes_a_new_one(tmp_path: Path) -> None:
    net = text_format.Parse(OLD, NetParameter())
    blob = net.layers[1].blobs.add(num=2, channels=3, height=3, width=3)
    blob.data.extend(range(54))
    (tmp_path / "old").write_bytes(net.SerializeToString())
    assert upgrade.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    new = NetParameter.FromString((tmp_path / "new").read_bytes())
    assert [layer.type for layer in new.layer] == ["Data", "Convolution"]
    read = weights.read(str(tmp_path / "new"))["c"][0]
    np.testing.assert_array_equal(read, np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"layers { name: 'a' } layer { name: 'b' }", "old: the net has both layer and the legacy layers"),
        (b"typo: 1", 'old:1:1: .*"typo"'),
        (b"\x00\xff", "old is neither a prototxt nor a binary caffemodel"),
        (SolverParameter(iter_size=3).SerializeToString(), "old "),
    ],
)
def test_what_is_no_net_is_not_upgraded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    (tmp_path / "old").write_bytes(content)
    assert upgrade.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert re.search(reason, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_lenet_is_exported(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"lenet.{kind}"
    model = str(LENET / "lenet_iter_1000.caffemodel")
    net = str(EXAMPLES / "mnist" / "lenet_train_test.prototxt")
    assert export.main([net, str(out), "--weights", model, "--data-shape", "data=3x1x28x28"]) == 0
    assert "data to ip2; results differ by" in capsys.readouterr().out
    images = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    compute = export.run_onnx if kind == "onnx" else export.run_program
    theirs = compute(out.read_bytes(), (torch.from_numpy(images),))[0]
    deploy = NetFile(prototxt.read_net(str(LENET / "lenet_deploy.prototxt")), _state(), ".")
    own = forward.build(deploy, {"data": images})
    own.copy_weights(weights.read(model), model)
    np.testing.assert_allclose(theirs, forward.compute(own, {"data": images})["ip2"], rtol=1e-4, atol=1e-4)
    if kind == "onnx":
        onnx.checker.check_model(onnx.load(str(out)))


def _state() -> object:
    return NetParameter().state


def test_an_export_that_computes_something_else_is_not_written(
    tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (lambda *_: b"program", lambda *_: [np.zeros((2, 5), np.float32)])
    monkeypatch.setitem(export._KINDS, ".pt2", wrong)
    assert export.main([small, str(tmp_path / "out.pt2"), "--no-weights"]) == 2
    assert "results differ from the net's" in capsys.readouterr().err
    assert not (tmp_path / "out.pt2").exists()


# A .safetensors file is sorted by name: nothing is left to go by where the names differ.
@pytest.mark.parametrize(
    ("names", "kind"), [("torchvision's", "pth"), ("torchvision's", "safetensors"), ("others", "pth")]
)
def test_a_state_dict_becomes_a_caffemodel(tmp_path: Path, small: str, names: str, kind: str) -> None:
    torch.manual_seed(0)
    twin = Twin()
    twin(torch.rand(8, 3, 8, 8))  # for statistics of its own
    state = twin.eval().state_dict()
    if names == "others":
        state = {f"x{name}": value for name, value in state.items()}
    source = tmp_path / f"state.{kind}"
    save_file(state, source) if kind == "safetensors" else torch.save({"state_dict": state}, source)
    out = tmp_path / "out.caffemodel"
    assert import_torch.main([small, str(source), str(out)]) == 0
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    net = Net(prototxt.read_net(small), TEST)
    assert net.copy_weights(weights.read(str(out)), "out") == []
    expected = twin(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(forward.compute(net, {"data": images})["fc1000"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"fc.weight": torch.ones(5, 64)}, "1 modules with parameters, the net has 3"),
        (
            {"conv1.weight": torch.ones(4, 3, 5, 5), "bn1.weight": torch.ones(4), "fc.weight": torch.ones(5, 64)},
            'module "conv1" has the shapes .* layer "conv1" takes',
        ),
        ({"a": 1}, "it has no tensors by name"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str], state: dict[str, object], reason: str
) -> None:
    torch.save(state, tmp_path / "state.pth")
    assert import_torch.main([small, str(tmp_path / "state.pth"), str(tmp_path / "out")]) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_state_dict_may_run_nothing(tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Twin(), tmp_path / "state.pth")
    assert import_torch.main([small, str(tmp_path / "state.pth"), str(tmp_path / "out")]) == 2
    assert "is no state dict of tensors" in capsys.readouterr().err


def test_python_layers_of_others_are_inputs() -> None:
    missing = LayerParameter(type="Python", python_param={"module": "voc_layers", "layer": "Data"})
    ours = LayerParameter(type="Python", python_param={"module": "torch.nn", "layer": "Identity"})
    assert [_data_shapes.is_source(layer) for layer in (missing, ours)] == [True, False]
