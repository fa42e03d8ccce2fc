"""Values of a configuration as people type them: KEY=VALUE."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from infra.config_errors import ConfigError


def parse(texts: Sequence[str]) -> dict[str, Any]:
    """The values by their keys, which may be written with or without `cos:`.

    Args:
        texts: Each is KEY=VALUE, the value in YAML, as `ttl=2h` or `master={type: m7i.large}`.

    Raises:
        ConfigError: One is no such pair, or its value no YAML.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.removeprefix("cos:").partition("=")
        if not equals or not re.fullmatch("[a-z_]+", key):
            raise ConfigError(f"{text} is no KEY=VALUE: write it as in `idle=1h`.")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{text} has no YAML value ({' '.join(str(error).split())}): quote it, or mend it."
            ) from None
    return found
