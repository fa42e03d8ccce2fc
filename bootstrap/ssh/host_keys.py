"""The keys by which nodes prove who they are: given, never learnt from the connection itself."""

import re
from typing import NamedTuple

_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
# The console prefixes each line with the time and the program.
_KEY = re.compile(r"\b((?:ssh|ecdsa)-[a-z0-9-]+) ([A-Za-z0-9+/]+={0,2})(?=\s|$)")


class HostKey(NamedTuple):
    """A public key: its algorithm, ``ssh-ed25519``, and its base64 text."""

    kind: str
    text: str

    @classmethod
    def parse(cls, line: str) -> "HostKey":
        """The key of a line of a ``.pub`` file.

        Raises:
            ValueError: The line holds none.
        """
        found = _KEY.search(line)
        if found is None:
            raise ValueError(f"{line!r} is no public key: a line of a .pub file is expected.")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


def parse_console_output(text: str) -> tuple[HostKey, ...]:
    """The host keys that cloud-init printed on an instance's console; empty where it has not yet.

    cloud-init's `keys_to_console` module prints them between two markers. Of several blocks (the instance was started
    again) the last counts; a block that the console cut off does not.
    """
    blocks = _BLOCK.findall(text)
    if not blocks:
        return ()
    return tuple(HostKey(kind, key) for kind, key in _KEY.findall(blocks[-1]))


def known_hosts(host: str, port: int, keys: tuple[HostKey, ...]) -> str:
    """The lines of a `known_hosts` file."""
    name = host if port == 22 else f"[{host}]:{port}"
    return "".join(f"{name} {key}\n" for key in keys)
