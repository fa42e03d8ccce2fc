"""Checks of the hardware against stand-ins of the tools that name it, which can be made to lie."""

import resource
from pathlib import Path

import pytest

from bootstrap.node import hardware
from bootstrap.node.hardware import shortages
from bootstrap.node.plan import NodeHardware
from tests.bootstrap.node.stand_ins import Programs

GB = 10**9
MEMORY = "MemTotal:       {kib} kB\nMemFree:         1 kB\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "EFA_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)  # this process keeps its own


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMORY.format(kib=1100 * 1024 * 1024))
    return path


def p4d(programs: Programs, *, gpus: int = 8, efa: int = 4, disks: int = 8, fabric: str = "active") -> None:
    """Tools that show a p4d.24xlarge, or one that falls short."""
    programs.add("nvidia-smi", "\n".join(["echo 'NVIDIA A100-SXM4-40GB'"] * gpus) or "exit 9")
    # One interface has two endpoints, hence its domain twice.
    domains = [f"echo 'provider: efa'; echo '    domain: rdmap{n}s27-rdm'" for n in range(efa)]
    programs.add("fi_info", "\n".join(domains * 2) or "exit 61")
    programs.add("lsblk", f"echo '{lsblk(disks)}'")
    programs.add("systemctl", f"echo {fabric}")


def lsblk(disks: int) -> str:
    root = '{"path": "/dev/nvme0n1", "size": 107374182400, "model": "Amazon Elastic Block Store"}'
    store = [
        f'{{"path": "/dev/nvme{n}n1", "size": {1000 * GB}, "model": "Amazon EC2 NVMe Instance Storage"}}'
        for n in range(1, disks + 1)
    ]
    loop = '{"path": "/dev/loop0", "size": 4096, "model": null}'
    return '{"blockdevices": [' + ", ".join([root, *store, loop]) + "]}"


def expected(vcpus: int = 1) -> NodeHardware:
    return NodeHardware(
        instance_type="p4d.24xlarge",
        vcpus=vcpus,
        memory_mib=1152 * 1024,
        gpus=8,
        gpu_name="A100",
        efa_interfaces=4,
        nvme_gb=8000,
    )


def test_a_whole_node_lacks_nothing(programs: Programs, memory: Path) -> None:
    p4d(programs)
    assert shortages(expected(), memory) == []


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ({"gpus": 7}, "GPUs: 8 A100 expected, 7 NVIDIA A100-SXM4-40GB found"),
        ({"gpus": 0}, "NVIDIA driver: one that answers expected, nvidia-smi is not there or fails found"),
        ({"efa": 3}, "EFA interfaces: 4 expected, 3 found"),
        ({"disks": 7}, "NVMe instance store: 8000 GB expected, 7000 GB on 7 devices found"),
        ({"disks": 0}, "NVMe instance store: 8000 GB expected, 0 GB on 0 devices found"),
        ({"fabric": "failed"}, "nvidia-fabricmanager: active expected, failed found"),
    ],
)
def test_a_shortage_is_named(programs: Programs, memory: Path, lacking: dict[str, int], sentence: str) -> None:
    p4d(programs, **lacking)  # type: ignore[arg-type]
    assert [str(shortage) for shortage in shortages(expected(), memory)] == [sentence]


def test_all_shortages_are_named_at_once(programs: Programs, memory: Path) -> None:
    p4d(programs, gpus=7, efa=0, disks=1, fabric="inactive")
    programs.add("lspci", "echo '00:1e.0 Ethernet controller: Amazon.com, Inc. Elastic Network Adapter (ENA)'")
    memory.write_text(MEMORY.format(kib=900 * 1024 * 1024))
    found = [shortage.what for shortage in shortages(expected(vcpus=4096), memory)]
    assert found == ["vCPUs", "memory", "GPUs", "nvidia-fabricmanager", "EFA interfaces", "NVMe instance store"]


def test_another_model_of_gpu_is_a_shortage(programs: Programs, memory: Path) -> None:
    p4d(programs)
    programs.add("nvidia-smi", "\n".join(["echo 'Tesla T4'"] * 8))
    assert "8 Tesla T4 found" in str(shortages(expected(), memory)[0])


def test_efa_that_comes_late_is_waited_for(programs: Programs, memory: Path, tmp_path: Path) -> None:
    p4d(programs)
    domains = "; ".join(f"echo '    domain: rdmap{n}s27-rdm'" for n in range(4))
    programs.add("fi_info", f"test -e {tmp_path}/asked || {{ touch {tmp_path}/asked; exit 61; }}\n{domains}")
    programs.add("lspci")
    assert shortages(expected(), memory) == []
    assert len(programs.calls("fi_info")) == 2


def test_the_bus_is_asked_where_libfabric_has_no_tool(programs: Programs) -> None:
    programs.add("fi_info", "exit 127")
    programs.add("lspci", "echo '10:1b.0 Ethernet controller: Amazon.com, Inc. Elastic Fabric Adapter (EFA)'")
    assert hardware.efa_interfaces() == 1


def test_a_node_without_gpus_needs_no_driver(programs: Programs, memory: Path) -> None:
    programs.add("nvidia-smi", "exit 9")
    programs.add("fi_info", "exit 61")
    plain = NodeHardware(instance_type="m7i.large", vcpus=1, memory_mib=8192)
    assert shortages(plain, memory) == []


def test_a_memlock_limit_that_stays_low_is_a_shortage(
    programs: Programs, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    p4d(programs)
    assert str(shortages(expected(), memory)[0]) == "memlock limit: 17179869184 bytes expected, 8388608 bytes found"
