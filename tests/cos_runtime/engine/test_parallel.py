"""How ranks exchange gradients: in pieces, and without loading torch's compiler."""

import subprocess
import sys
from pathlib import Path

TWO_STEPS = """
import sys
import torch
from torch import distributed, nn
from cos_runtime.engine.parallel import Parallel

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
module = Parallel(nn.Linear(2, 1, bias=False))
for _ in range(2):
    module(torch.tensor([[3.0, 5.0]])).sum().backward()
    assert len([*module.arriving()]) == 1
with module.no_sync():
    module(torch.tensor([[1.0, 1.0]])).sum().backward()
print(module.module.weight.grad.tolist(), *sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
print("_dynamo" in vars(torch))
"""


def test_steps_load_no_compiler_and_leave_nothing_in_its_place() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_STEPS], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["[[7.0, 11.0]]", "False"], done.stderr


PIECES = """
import sys
import torch
from torch import distributed, nn
from cos_runtime.engine.parallel import Parallel

rank, path = int(sys.argv[1]), sys.argv[2]
store = distributed.FileStore(path, 3)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=3)
torch.manual_seed(0)
convolution = nn.Conv2d(512, 1024, 3).to(memory_format=torch.channels_last)
net = nn.Sequential(convolution, nn.Flatten(), nn.Linear(1024, 3000))
module = Parallel(net)
inputs = torch.randn(3, 2, 512, 3, 3)
for _ in range(2):  # torch lays the gradients out anew after the first
    net.zero_grad(set_to_none=False)
    module(inputs[rank]).square().sum().backward()
    told, pieces = {}, 0
    for rows in module.arriving():
        pieces += 1
        for each in rows:
            told.setdefault(id(each.parameter), []).append((each.start, each.stop))
assert pieces >= 4, pieces
for parameter in net.parameters():
    ends = [0]
    for start, stop in told.pop(id(parameter)):
        assert start == ends[-1] < stop
        ends.append(stop)
    assert ends[-1] == len(parameter)
assert not told
means = [parameter.grad.clone() for parameter in net.parameters()]
net.zero_grad()
(sum(net(each).square().sum() for each in inputs) / 3).backward()
for mean, parameter in zip(means, net.parameters()):
    torch.testing.assert_close(mean, parameter.grad, rtol=1e-4, atol=1e-4)
distributed.barrier()
"""


def test_each_row_is_told_of_once_and_has_the_mean_of_all_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PIECES]
    ranks = [
        subprocess.Popen([*command, str(rank), tmp_path / "store"], stderr=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], said
