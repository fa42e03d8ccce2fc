"""Protobuf's wire format, for values of hundreds of megabytes that protobuf is not to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

Parts = list[bytes | memoryview]
"""Pieces of a message in order: joined once, hundreds of megabytes are copied once."""

Path = Mapping[int, Optional["Path"]]
"""Numbers of the fields that lead to a value, each with the path in its message; None for the value itself."""

_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}


def delimited(field: int, parts: Parts) -> Parts:
    """The pieces as the value of a field of another message (wire type 2)."""
    return [_varint(field << 3 | _DELIMITED) + _varint(sum(map(len, parts))), *parts]


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def without_values(message: memoryview, path: Path, mark: int, taken: list[memoryview]) -> bytes:
    """The message with each value of a path taken out, and its index in ``taken`` in its place.

    Args:
        message: as protobuf serialized it.
        path: where the values are; each is one length-delimited field.
        mark: the number of the field, a varint beside the value's own, that has the index.
        taken: the values are added here, uncopied.

    Raises:
        ValueError: it is cut off, no protobuf message, or has a value in pieces.
    """
    parts: Parts = []
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        length, at = _length(message, at, kind)
        if at + length > len(message):
            raise ValueError("it ends within a field")
        value, at = message[at : at + length], at + length
        if number not in path:
            parts += [] if number == mark else [message[start:at]]
            continue
        if kind != _DELIMITED:
            raise ValueError(f"field {number} is not in one piece")
        inner = path[number]
        if inner is None:
            parts.append(_varint(mark << 3 | _VARINT) + _varint(len(taken)))
            taken.append(value)
        else:
            parts += delimited(number, [without_values(value, inner, mark, taken)])
    return b"".join(parts)


def _length(message: memoryview, at: int, kind: int) -> tuple[int, int]:
    """The length of a field's value, and where it begins."""
    if kind == _DELIMITED:
        return _read_varint(message, at)
    if kind == _VARINT:
        return _read_varint(message, at)[1] - at, at
    if kind in _FIXED:
        return _FIXED[kind], at
    raise ValueError(f"wire type {kind} is unknown")


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("it ends within a number")
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
