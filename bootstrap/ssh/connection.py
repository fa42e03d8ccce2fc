"""One connection to a node, kept and shared by all that talk to it, made again where it broke."""

import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import paramiko

from bootstrap.errors import LaunchError
from bootstrap.host import ConnectionLostError
from bootstrap.ssh.address import Address
from bootstrap.ssh.command import Command
from bootstrap.ssh.keys import AskPassphrase, load_key, no_passphrase

# What paramiko raises where a connection broke: a send over one that is closed is an EOFError to it, `close` included.
BROKEN = (paramiko.SSHException, EOFError, OSError)

_Opened = TypeVar("_Opened")
_Route = socket.socket | paramiko.Channel | Command
# paramiko has the same exception for a key that is refused and for a connection that breaks meanwhile.
_CUT = "transport shut down"
# How `aws` says that it lacks its plugin.
_NO_PLUGIN = "SessionManagerPlugin is not found"
# Before paramiko's own first choice: it needs no second pass for the packet's checksum.
_FAST_CIPHER = "aes128-gcm@openssh.com"

# OpenSSH's sshd turns logins away at random from the eleventh at a time on (MaxStartups, "10:30:100"), and all nodes
# are reached through the master's. Two are left to others.
_LOGINS_AT_ONCE = 8

# What it logs with a stack trace is raised too, and told in a sentence.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Connection:
    """A login on a node, made when first needed; each command, file and tunnel is a channel of it.

    Safe to use from several threads.

    Args:
        address: The node.
        ask: Tells the passphrase of an encrypted key.
    """

    def __init__(self, address: Address, ask: AskPassphrase = no_passphrase) -> None:
        self.address = address
        self._ask = ask
        self._lock = threading.RLock()
        self._client: paramiko.SSHClient | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._was_in = False
        self._jump = None if address.jump is None else Connection(address.jump, ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transport(self) -> paramiko.Transport:
        """The live connection, made anew if it is not there or broke.

        Raises:
            ConnectionLostError: The node does not answer (now).
            LaunchError: It answers, and is not the one expected, or does not let us in.
        """
        with self._lock:
            transport = None if self._client is None else self._client.get_transport()
            if transport is None or not transport.is_active():
                self.close()
                self._client = self._connect()
                transport = self._client.get_transport()
            if transport is None:
                raise ConnectionLostError(f"{self._who()} closed the connection at once: try again.")
            return transport

    def channel(self) -> paramiko.Channel:
        """A channel for one command."""
        return self._open(lambda transport: transport.open_session(timeout=self.address.limits.connect))

    def tunnel(self, host: str, port: int) -> paramiko.Channel:
        """A channel to a port as the node sees it."""
        return self._open(
            lambda transport: transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self.address.limits.connect
            )
        )

    def sftp(self) -> paramiko.SFTPClient:
        """The one file channel, made anew with the connection."""
        with self._lock:
            self.transport()
            if self._sftp is None or self._sftp.get_channel() is None or self._sftp.sock.closed:
                self._sftp = self._open(paramiko.SFTPClient.from_transport)
            if self._sftp is None:
                raise ConnectionLostError(f"{self._who()} offers no file transfer: its sshd needs the sftp subsystem.")
            self._sftp.sock.settimeout(self.address.limits.command)
            return self._sftp

    def _open(self, opened: Callable[[paramiko.Transport], _Opened]) -> _Opened:
        """What is opened over the connection, which is closed where nobody answers: who tries again needs another."""
        try:
            return opened(self.transport())
        except BROKEN as error:
            if not isinstance(error, paramiko.ChannelException):  # that is an answer
                self.close()
            raise self.lost(error) from error

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        transport = None if self._client is None else self._client.get_transport()
        return transport is not None and transport.is_active()

    def lost(self, error: BaseException) -> ConnectionLostError:
        """What to raise where a channel broke on the error."""
        return ConnectionLostError(
            f"The connection to {self._who()} broke ({error or type(error).__name__}): try again."
        )

    def close(self) -> None:
        """Close the connection, the one to the jump host included."""
        with self._lock:
            if self._client is not None:
                close(self._client)
            self._client = self._sftp = None
            if self._jump is not None:
                self._jump.close()

    def _connect(self) -> paramiko.SSHClient:
        # A node behind another is logged in to through a connection of its own: one login at a time.
        turn = _turns(self.address.host, self.address.port) if self._jump is None else contextlib.nullcontext()
        with turn:
            client = self._log_in()
        self._was_in = True
        return client

    def _log_in(self) -> paramiko.SSHClient:
        address, limits = self.address, self.address.limits
        key = None if address.key_file is None else load_key(address.key_file, self._ask)
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Refuse(self._who()))
        self._pin(client)
        route = self._route()
        begin = time.monotonic()
        try:
            client.connect(
                address.host,
                address.port,
                address.user,
                pkey=key,
                sock=route,
                allow_agent=key is None,
                look_for_keys=False,
                timeout=limits.auth,
                banner_timeout=limits.auth,
                auth_timeout=limits.auth,
                channel_timeout=limits.connect,
                transport_factory=_transport,  # type: ignore[arg-type]  # a protocol of names that paramiko does not use
            )
        except BaseException as error:
            close(client)
            close(route)
            if isinstance(error, LaunchError) or not isinstance(error, Exception):
                raise
            if isinstance(route, Command) and route.last_words:
                raise self._way_ended(route.last_words) from error
            raise self._refusal(error, time.monotonic() - begin) from error
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(round(limits.keep_alive) or 1)
        return client

    def _route(self) -> _Route:
        """The way to the node's sshd: TCP, a channel through the jump host, or a command's stdin and stdout."""
        address, limits = self.address, self.address.limits
        if self._jump is not None:
            self._jump.transport()  # what is wrong with the jump host is told of that
            try:
                return self._jump.tunnel(address.host, address.port)
            except ConnectionLostError as error:
                raise ConnectionLostError(
                    f"{self._who()} cannot be reached from {self._jump.address.name}: is it running?"
                ) from error
        if address.proxy:
            try:
                return Command(address.proxy)
            except OSError as error:
                raise LaunchError(
                    f"`{address.proxy[0]}`, the way to {self._who()}, cannot be run ({error.strerror}): install it."
                ) from None
        try:
            plug = socket.create_connection((address.host, address.port), timeout=limits.connect)
        except TimeoutError:
            raise ConnectionLostError(
                f"{self._who()} did not answer within the connect limit of {limits.connect:g} s: is it running, and "
                "may this machine's address reach its port?"
            ) from None
        except OSError as error:
            raise ConnectionLostError(
                f"{self._who()} cannot be reached ({error.strerror or error}): is it running?"
            ) from None
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere a network that changes is noticed by its reset alone
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limits.unanswered * 1000))
        return plug

    def _pin(self, client: paramiko.SSHClient) -> None:
        """Let the client know the node's keys, and no others."""
        address = self.address
        if not address.host_keys:
            raise LaunchError(
                f"No host key of {self._who()} is known, so it cannot be told from an impostor: "
                "wait until its console shows them, then run the command again."
            )
        name = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
        for kind, text in address.host_keys:
            entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {kind} {text}")
            if entry is not None and entry.key is not None:  # a kind that paramiko does not know is none to agree on
                client.get_host_keys().add(name, kind, entry.key)

    def _way_ended(self, words: str) -> LaunchError:
        """What a person is told where the command that leads to the node ended with such words."""
        means = "install session-manager-plugin" if _NO_PLUGIN in words else "mend that, then try again"
        command, said = self.address.proxy[0], words.rstrip(".")
        told = f"`{command}`, the way to {self._who()}, ended before the login ({said}): {means}."
        # A way that led there once is cut by the network, and by no mistake that somebody has to mend.
        return ConnectionLostError(told) if self._was_in else LaunchError(told)

    def _refusal(self, error: Exception, seconds: float) -> LaunchError:
        """What a person is told where the login failed after the seconds."""
        limits, who = self.address.limits, self._who()
        if isinstance(error, paramiko.BadHostKeyException):
            return LaunchError(
                f"The host key of {who} is not the pinned one: somebody may be in between, or the node was replaced; "
                "compare with its console and renew the cluster's facts."
            )
        if seconds >= limits.auth:
            return ConnectionLostError(
                f"{who} did not finish the login within the auth limit of {limits.auth:g} s: "
                "is it overloaded, or no sshd?"
            )
        if isinstance(error, paramiko.AuthenticationException) and _CUT not in str(error):
            means = "a key of the agent" if self.address.key_file is None else f"the key {self.address.key_file}"
            return LaunchError(f"{who} does not take {means} for {self.address.user}: name the key it was made with.")
        if "No authentication methods" in str(error):
            return LaunchError(f"There is no key to log in to {who} with: name one, or run `ssh-add` for the agent.")
        return ConnectionLostError(f"{who} broke off the login ({error or type(error).__name__}): try again.")

    def _who(self) -> str:
        address = self.address
        return f"{address.name} ({address.host}:{address.port})"


@functools.cache
def _turns(_host: str, _port: int) -> threading.BoundedSemaphore:
    """What a login at an sshd holds, for as many as it takes at a time for certain."""
    return threading.BoundedSemaphore(_LOGINS_AT_ONCE)


def close(broken: paramiko.SSHClient | _Route) -> None:
    """Close what may be broken, as may be the way to it, and then cannot tell the other end."""
    with contextlib.suppress(*BROKEN):  # else it would hide why the connection broke
        broken.close()


def _transport(route: _Route, **options: Any) -> paramiko.Transport:
    # With paramiko's own window, 2 MB as OpenSSH's. With more of it sshd reads a command's output ahead of the link and
    # moves all that waits at each packet: with 16 MB, the first 27 MB over 1 Gbit/s took 2 s instead of 0.2.
    transport = paramiko.Transport(route, **options)
    security = transport.get_security_options()
    others = [cipher for cipher in security.ciphers if cipher != _FAST_CIPHER]
    security.ciphers = [_FAST_CIPHER, *others]
    return transport


class _Refuse(paramiko.MissingHostKeyPolicy):
    """No key is learnt from the connection that it is to vouch for."""

    def __init__(self, who: str) -> None:
        self._who = who

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Refuse."""
        raise LaunchError(
            f"{self._who} shows a host key of the kind {key.get_name()}, and none of that kind is pinned: "
            "renew the cluster's facts from its console."
        )
