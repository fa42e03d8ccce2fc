import hashlib
import json
from pathlib import Path

import pytest

from tests.fixtures.pulumi_engine import engine, moto_address

__all__ = ["engine", "moto_address"]


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit as far as Pulumi looks into it: a manifest and a file."""
    folder = tmp_path / "kit"
    folder.mkdir()
    wheel = b"wheel"
    (folder / "cos.whl").write_bytes(wheel)
    entry = {"name": "cos.whl", "sha256": hashlib.sha256(wheel).hexdigest(), "size": len(wheel)}
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    return folder
