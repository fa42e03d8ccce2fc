"""Which wires the gradients take: ``-connection`` turned into a torch backend and its settings."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from cos_runtime.errors import UserError

CONNECTIONS = ("ethernet", "infiniband", "efa")

_SIOCGIFADDR = 0x8915  # Linux: get the IPv4 address of an interface
_INFINIBAND = Path("/sys/class/infiniband")
_EFA_PLUGINS = ("/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl", "/opt/amazon/aws-ofi-nccl")


@dataclass(frozen=True)
class Exchange:
    """How a rank exchanges gradients.

    Attributes:
        backend: torch's name, ``gloo`` or ``nccl``.
        environment: what the backend reads from the environment.
    """

    backend: str
    environment: dict[str, str]

    def enter(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Set the environment; what the node's administrator has set stays."""
        for name, value in self.environment.items():
            environment.setdefault(name, value)


def choose(connection: str, device: str, local_ip: str, devices: Path = _INFINIBAND) -> Exchange:
    """The exchange for a connection on this host.

    Args:
        connection: one of :data:`CONNECTIONS`.
        device: ``cpu`` or ``cuda``.
        local_ip: this host's address on the way to the other ranks.
        devices: the folder in which Linux lists RDMA devices.

    Raises:
        UserError: this host lacks what the connection needs; the sentence names it.
    """
    interface = interface_of(local_ip)
    if connection != "ethernet":
        require_device(connection, devices)
    if device == "cpu":
        if connection != "ethernet":
            raise UserError(
                f"-connection {connection} moves gradients between GPUs by RDMA, and this rank computes on the CPU: "
                "use -connection ethernet"
            )
        return Exchange("gloo", {"GLOO_SOCKET_IFNAME": interface})
    settings = {"NCCL_SOCKET_IFNAME": f"={interface}"}
    if connection == "ethernet":
        return Exchange("nccl", {**settings, "NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"})
    if connection == "infiniband":
        return Exchange("nccl", {**settings, "NCCL_NET": "IB"})
    if not any(Path(folder).is_dir() for folder in _EFA_PLUGINS):
        raise UserError(
            f"-connection efa: {socket.gethostname()} has an EFA device but no aws-ofi-nccl plugin: "
            "install the EFA installer's packages, or use -connection ethernet"
        )
    # By its name NCCL fails where the plugin is not taken, instead of falling back to TCP without a word.
    return Exchange("nccl", {**settings, "NCCL_NET": "AWS Libfabric", "FI_PROVIDER": "efa"})


def interface_of(ip: str) -> str:
    """The name of the network interface that has this IPv4 address.

    Raises:
        UserError: none of this host's interfaces has it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(plug.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == ip:
                return name
    raise UserError(f"no network interface of {socket.gethostname()} has the address {ip}")


def require_device(connection: str, devices: Path = _INFINIBAND) -> None:
    """Refuse a connection for which this host has no RDMA device."""
    found = sorted(devices.iterdir()) if devices.is_dir() else []
    drivers = {device.name: (device / "device" / "driver").resolve().name for device in found}
    wanted = [name for name, driver in drivers.items() if (driver == "efa") == (connection == "efa")]
    if not wanted:
        seen = ", ".join(f"{name} ({driver})" for name, driver in drivers.items()) or "none"
        raise UserError(
            f"-connection {connection}: {socket.gethostname()} has no {connection} device (RDMA devices: {seen}): "
            "use -connection ethernet, or nodes that have one"
        )
