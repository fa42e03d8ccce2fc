"""-connection turned into a backend and its settings."""

import pytest

from cos_runtime.engine.network import choose, interface_of, require_device
from cos_runtime.errors import UserError


@pytest.fixture
def rdma(tmp_path):
    """A folder like /sys/class/infiniband, with devices of the given drivers."""

    def make(**drivers: str):
        for device, driver in drivers.items():
            (tmp_path / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (tmp_path / "class" / device / "device").mkdir(parents=True)
            (tmp_path / "class" / device / "device" / "driver").symlink_to(tmp_path / "drivers" / driver)
        return tmp_path / "class"

    return make


def test_the_interface_of_an_address():
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(UserError, match=r"no network interface .* 203\.0\.113\.7"):
        interface_of("203.0.113.7")


def test_gloo_on_the_cpu_and_nccl_sockets_on_gpus(rdma):
    assert choose("ethernet", "cpu", "127.0.0.1", rdma()).backend == "gloo"
    exchange = choose("ethernet", "cuda", "127.0.0.1", rdma())
    assert exchange.backend == "nccl"
    assert exchange.environment["NCCL_IB_DISABLE"] == "1"


@pytest.mark.parametrize("connection", ["infiniband", "efa"])
def test_a_device_the_host_lacks_is_named(rdma, connection):
    with pytest.raises(UserError, match=rf"-connection {connection}: .* has no {connection} device .*ethernet"):
        choose(connection, "cuda", "127.0.0.1", rdma())


def test_an_efa_device_is_no_infiniband(rdma):
    devices = rdma(rdmap0="efa")
    require_device("efa", devices)
    with pytest.raises(UserError, match=r"RDMA devices: rdmap0 \(efa\)"):
        require_device("infiniband", devices)


def test_an_infiniband_device_is_no_efa(rdma):
    devices = rdma(mlx5_0="mlx5_core")
    require_device("infiniband", devices)
    with pytest.raises(UserError, match=r"RDMA devices: mlx5_0 \(mlx5_core\)"):
        require_device("efa", devices)


def test_infiniband_never_falls_back_to_tcp(rdma):
    assert choose("infiniband", "cuda", "127.0.0.1", rdma(mlx5_0="mlx5_core")).environment["NCCL_NET"] == "IB"


def test_rdma_on_the_cpu_is_refused(rdma):
    with pytest.raises(UserError, match="computes on the CPU"):
        choose("infiniband", "cpu", "127.0.0.1", rdma(mlx5_0="mlx5_core"))


def test_the_administrators_settings_stay(rdma):
    environment = {"NCCL_SOCKET_IFNAME": "bond0"}
    choose("ethernet", "cuda", "127.0.0.1", rdma()).enter(environment)
    assert environment == {"NCCL_SOCKET_IFNAME": "bond0", "NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"}
