"""Where a node is, how it proves itself, and how long we wait for it."""

from dataclasses import dataclass, field
from pathlib import Path

from bootstrap.ssh.host_keys import HostKey


@dataclass(frozen=True)
class Limits:
    """Seconds that each part of a connection may take.

    Attributes:
        connect: until the TCP connection stands.
        auth: from there until the login.
        command: a command, unless whoever runs it says otherwise.
        keep_alive: between two signs of life, so that no firewall forgets an idle connection.
        unanswered: that what is sent may go unacknowledged by the other end's network, before the connection is lost.
        again: until a lost connection is given up.
    """

    connect: float = 10.0
    auth: float = 20.0
    command: float = 60.0
    keep_alive: float = 15.0
    unanswered: float = 30.0
    again: float = 120.0


@dataclass(frozen=True)
class Address:
    """One node.

    Attributes:
        name: what people call it: ``master``, ``worker-3``.
        host: name or IP address.
        user: the login.
        host_keys: the only keys it may prove itself with.
        port: of its sshd.
        key_file: the private key to log in with; None asks the agent.
        jump: the node to go through, where it has no public address.
        proxy: a command whose stdin and stdout lead to its sshd, where nothing else does.
        limits: the time limits.
    """

    name: str
    host: str
    user: str
    host_keys: tuple[HostKey, ...]
    port: int = 22
    key_file: Path | None = None
    jump: "Address | None" = None
    proxy: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
