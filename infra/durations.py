"""Lengths of time as people write them: `8h`, `90m`, `1d12h`."""

import datetime
import re
from typing import Any

from infra.config_errors import ConfigError

_MOST = 366 * 24 * 60  # so that no date is beyond what dates can be
_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


def minutes(text: str) -> int:
    """The minutes that a text such as `1h30m` stands for.

    Raises:
        ValueError: It is no such text, or more than a year.
    """
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is no length of time: write it as 90m, 8h or 1d12h")
    days, hours, rest = (int(part or 0) for part in match.groups())
    total = (days * 24 + hours) * 60 + rest
    if total > _MOST:
        raise ValueError(f"{text!r} is more than a year: give less")
    return total


def lifetime(ttl: Any) -> datetime.timedelta:
    """What a configuration's `cos:ttl` stands for.

    Raises:
        ConfigError: It is no length of time.
    """
    try:
        return datetime.timedelta(minutes=minutes(str(ttl)))
    except ValueError as error:
        raise ConfigError(f"cos:ttl is {ttl!r}: {error}.") from None


def text(total: int) -> str:
    """The shortest way to write so many minutes."""
    days, rest = divmod(total, 24 * 60)
    parts = ((days, "d"), (rest // 60, "h"), (rest % 60, "m"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0m"
