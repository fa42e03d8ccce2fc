"""Lengths of time as people write them: `8h`, `90m`, `1d12h`."""

import re

_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


def minutes(text: str) -> int:
    """The minutes that a text such as `1h30m` stands for.

    Raises:
        ValueError: It is no such text.
    """
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is no length of time: write it as 90m, 8h or 1d12h")
    days, hours, rest = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest


def text(total: int) -> str:
    """The shortest way to write so many minutes."""
    days, rest = divmod(total, 24 * 60)
    parts = ((days, "d"), (rest // 60, "h"), (rest % 60, "m"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0m"
