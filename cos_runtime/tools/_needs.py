"""Libraries that one tool or another needs, and a cluster does not."""

from __future__ import annotations

import importlib
from typing import Any

from cos_runtime.errors import UserError


def needed(module: str) -> Any:
    """Import a library of the extra ``tools``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        raise UserError(f"this tool needs {name}, which is not installed: run pip install 'cos[tools]'") from None
