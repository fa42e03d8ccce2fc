"""Private keys: read from files as OpenSSH would, with its refusals in one sentence."""

import stat
from collections.abc import Callable
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from bootstrap.errors import LaunchError

AskPassphrase = Callable[[Path], str | None]


def no_passphrase(_path: Path) -> str | None:
    """There is nobody to ask."""
    return None


def load_key(path: Path, ask: AskPassphrase = no_passphrase) -> paramiko.PKey | None:
    """The private key of a file; None where it is encrypted, nobody tells its passphrase, and the agent holds keys.

    Args:
        path: The key file.
        ask: Tells the passphrase of an encrypted key.

    Raises:
        LaunchError: It is missing, readable by others, of an unknown kind, or its passphrase is missing or wrong.
    """
    _check(path)
    try:
        return _read(path, None)
    except paramiko.PasswordRequiredException:
        pass
    passphrase = ask(path)
    if passphrase is None:
        if agent_keys():
            return None
        raise LaunchError(f"The key {path} is encrypted: run `ssh-add {path}` first, so that the agent holds it.")
    try:
        return _read(path, passphrase)
    except paramiko.PasswordRequiredException:
        raise LaunchError(f"That is not the passphrase of the key {path}: try again.") from None


def agent_keys() -> tuple[paramiko.AgentKey, ...]:
    """The keys that a running ssh agent holds."""
    agent = paramiko.Agent()
    try:
        return agent.get_keys()
    finally:
        agent.close()


def _check(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise LaunchError(f"The key {path} cannot be read ({error.strerror}): name another one.") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LaunchError(
            f"The key {path} can be read by others (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {path}`."
        )


def _read(path: Path, passphrase: str | None) -> paramiko.PKey:
    """The key; PasswordRequiredException where the passphrase is missing or wrong."""
    try:
        # The bytes that cryptography wants, and not the text that paramiko's hint names.
        return paramiko.PKey.from_path(path, passphrase and passphrase.encode())  # type: ignore[arg-type]
    except TypeError:  # cryptography's word for: it is encrypted, and there is no passphrase
        raise paramiko.PasswordRequiredException from None
    except (ValueError, paramiko.SSHException) as error:
        if passphrase is not None:
            raise paramiko.PasswordRequiredException from error
        raise LaunchError(f"{path} is no private key that ssh knows: make one with `ssh-keygen -t ed25519`.") from None
    except (UnsupportedAlgorithm, paramiko.pkey.UnknownKeyType, OSError) as error:
        raise LaunchError(f"The key {path} cannot be used ({error}): make one with `ssh-keygen -t ed25519`.") from None
