"""Ranks that exchange gradients do not load torch's compiler."""

import subprocess
import sys

TWO_STEPS = """
import sys
import torch
from torch import distributed, nn
from cos_runtime.engine.parallel import Parallel

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
module = Parallel(nn.Linear(2, 1, bias=False))
for _ in range(2):
    module(torch.tensor([[3.0, 5.0]])).sum().backward()
with module.no_sync():
    module(torch.tensor([[1.0, 1.0]])).sum().backward()
print(module.module.weight.grad.tolist(), *sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
print("_dynamo" in vars(torch))
"""


def test_steps_load_no_compiler_and_leave_nothing_in_its_place() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_STEPS], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["[[7.0, 11.0]]", "False"], done.stderr
