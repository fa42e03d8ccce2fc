import os
import runpy
from pathlib import Path

import pulumi
import pytest
import yaml

from infra import presets, reference
from infra.config import keys
from infra.planned import _Recorder


def test_pulumi_yaml_declares_the_keys_of_the_types() -> None:
    assert reference.PROJECT.read_text() == reference.project(), "run `python -m infra.reference`"


def test_the_document_has_the_keys_of_the_types() -> None:
    text = reference.DOCUMENT.read_text()
    assert text == reference.documented(text), "run `python -m infra.reference`"
    for key, field in keys():
        assert f"| `{key}` |" in text
        assert str(field.description) in text


@pytest.mark.parametrize("preset", presets.names())
def test_the_document_tells_of_each_preset(preset: str) -> None:
    assert f"`{preset}`" in reference.DOCUMENT.read_text()


def test_every_default_leaves_the_word_to_the_preset() -> None:
    declared = yaml.safe_load(reference.PROJECT.read_text())["config"]
    presets_set = {key for preset in presets.names() for key in presets.values(preset)}
    for key in presets_set:
        assert not declared[f"cos:{key}"]["default"]


def test_the_program_refuses_without_a_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PULUMI_CONFIG", '{"cos:preset": "cpu-small", "cos:ttl": "long"}')
    pulumi.runtime.set_mocks(_Recorder(), project="cos", stack="dev")
    with pytest.raises(pulumi.RunError, match="cos:owner is not set"):
        runpy.run_path(str(Path(reference.PROJECT).parent / "infra"), run_name="__main__")
