"""The lab's network: namespaces on one bridge, links of a given speed, and security groups as nftables' rules.

All of it lies in namespaces that have no way out: the addresses are the VPC's, and those that RFC 5737 sets aside for
documentation stand for the internet's.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

AWS = "192.0.2.1"  # where moto answers
LAPTOP = "203.0.113.7"
STRANGER = "203.0.113.66"
PUBLIC = "198.51.100"  # of the addresses that instances get
BRIDGE = "lab0"

_CLONE_NEWNET = 0x40000000
_NAMES = Path("/run/netns")
_SECONDS = 30.0
_BURST = "256kb"
_LATENCY = "100ms"
_TABLE = "lab"


class Rule(NamedTuple):
    """What a security group lets in.

    Attributes:
        sources: Ranges of addresses.
        protocol: `tcp` or `udp`; anything where it is empty.
        first: The first port.
        last: The last port.
    """

    sources: tuple[str, ...]
    protocol: str = ""
    first: int = 0
    last: int = 65535


def run(
    *command: str, given: str | None = None, environment: Mapping[str, str] | None = None, seconds: float = _SECONDS
) -> str:
    """Run a program of the system and return what it says.

    Args:
        command: The program and its arguments.
        given: Its stdin.
        environment: In place of this process's.
        seconds: Its limit.

    Raises:
        OSError: It fails.
    """
    ended = subprocess.run(
        command,
        input=given,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        start_new_session=True,
    )
    if ended.returncode:
        raise OSError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Let this thread, and what it starts, be in a network namespace until the block ends."""
    with Path("/proc/thread-self/ns/net").open() as before, (_NAMES / namespace).open() as wanted:
        _set(wanted.fileno())
        try:
            yield
        finally:
            _set(before.fileno())


def _set(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def make_bridge(namespace: str) -> None:
    """The internet: a namespace whose bridge all others hang on, with AWS's own address."""
    run("ip", "netns", "add", namespace)
    # Left to itself a bridge takes the lowest address of its ports: another one whenever a host comes or goes.
    run("ip", "-n", namespace, "link", "add", BRIDGE, "address", "02:00:00:00:00:01", "type", "bridge")
    _address(namespace, BRIDGE, [AWS])


def attach(namespace: str, bridge: str, interface: str, addresses: Sequence[str], megabits: float | None) -> None:
    """A namespace of a host, hung on the bridge by a link.

    Args:
        namespace: The new namespace.
        bridge: The namespace of the bridge.
        interface: The name of the link's end there, 15 characters at most.
        addresses: The host's, the first one for what it sends.
        megabits: The link's speed each way, in Mbit/s; None leaves it as fast as it is.
    """
    run("ip", "netns", "add", namespace)
    peer = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
    run("ip", "-n", bridge, "link", "add", interface, *peer)
    run("ip", "-n", bridge, "link", "set", interface, "master", BRIDGE, "up")
    _address(namespace, "eth0", addresses)
    if megabits is not None:
        shape = ("root", "tbf", "rate", f"{megabits:.0f}mbit", "burst", _BURST, "latency", _LATENCY)
        run("tc", "-n", bridge, "qdisc", "add", "dev", interface, *shape)
        run("tc", "-n", namespace, "qdisc", "add", "dev", "eth0", *shape)


def _address(namespace: str, interface: str, addresses: Sequence[str]) -> None:
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    run("ip", "-n", namespace, "link", "set", interface, "up")
    for address in addresses:
        run("ip", "-n", namespace, "address", "add", f"{address}/32", "dev", interface)
    # Everybody is a neighbour. BBR would take the bucket's first packets for the link's own speed.
    way = ("default", "dev", interface, "src", addresses[0], "congctl", "cubic")
    run("ip", "-n", namespace, "route", "add", *way)


def set_address(namespace: str, address: str, *, there: bool) -> None:
    """Give a host another address, or take it away."""
    run("ip", "-n", namespace, "address", "replace" if there else "delete", f"{address}/32", "dev", "eth0")


def set_link(bridge: str, interface: str, *, up: bool) -> None:
    """Plug a host's cable in, or pull it: the end on the bridge, so that what the host set up stays."""
    run("ip", "-n", bridge, "link", "set", interface, "up" if up else "down")


def let_in(namespace: str, rules: Sequence[Rule]) -> None:
    """Let a host take what its security groups let in, and nothing else."""
    wanted = "\n".join(line for rule in rules for line in _accept(rule))
    run("ip", "netns", "exec", namespace, "nft", "-f", "-", given=f"""
        table inet {_TABLE}
        delete table inet {_TABLE}
        table inet {_TABLE} {{
            chain in {{
                type filter hook input priority 0; policy drop;
                iif lo accept
                ct state established,related accept
                {wanted}
            }}
        }}
    """)  # fmt: skip


def _accept(rule: Rule) -> list[str]:
    ports = f"{rule.protocol} dport {rule.first}-{rule.last} " if rule.protocol else ""
    return [f"ip saddr {source} {ports}accept" for source in rule.sources]


def rules_of(group: dict[str, Any], members: dict[str, list[str]]) -> list[Rule]:
    """The rules of a security group as EC2 describes it; `members` has the addresses of each group's hosts."""
    found = []
    for entry in group["IpPermissions"]:
        sources = [each["CidrIp"] for each in entry["IpRanges"]]
        sources += [address for each in entry["UserIdGroupPairs"] for address in members.get(each["GroupId"], [])]
        if entry["IpProtocol"] == "-1":
            found.append(Rule(tuple(sources)))
        elif entry["IpProtocol"] in ("tcp", "udp"):
            found.append(Rule(tuple(sources), entry["IpProtocol"], entry["FromPort"], entry["ToPort"]))
    return found


def remove(namespace: str) -> None:
    """Remove a namespace; its links go with it, and its name is free again at once."""
    with contextlib.suppress(OSError):
        run("ip", "-n", namespace, "link", "delete", "eth0")
    with contextlib.suppress(OSError):
        run("ip", "netns", "delete", namespace)


def names(prefix: str) -> list[str]:
    """The namespaces that are there."""
    return sorted(path.name for path in _NAMES.glob(f"{prefix}*"))
