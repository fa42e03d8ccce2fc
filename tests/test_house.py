"""The files that hold the house together agree with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOUSE = Path(__file__).resolve().parent.parent
SCHEMA = Path("cos_runtime/caffe/schema")


def locked() -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (HOUSE / "requirements.lock").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def declared() -> list[Requirement]:
    pyproject = tomllib.loads((HOUSE / "pyproject.toml").read_text())
    project = pyproject["project"]
    groups = [pyproject["build-system"]["requires"], project["dependencies"]]
    groups += project["optional-dependencies"].values()
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_the_lock_pins_what_the_project_asks_for(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, "run `make lock`"
    assert requirement.specifier.contains(version), "run `make lock`"


def test_the_lock_hashes_all_and_names_no_registry() -> None:
    text = (HOUSE / "requirements.lock").read_text()
    assert "://" not in text
    assert "index-url" not in text
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        assert "--hash=sha256:" in block, block


def test_help_tells_of_each_target() -> None:
    rules = re.findall(r"^\.PHONY: (.+)$", (HOUSE / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    told = subprocess.run(["make", "--no-print-directory"], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in told.stdout.splitlines()} == targets


def test_generated_protobuf_code_is_fresh(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(HOUSE)) for path in (HOUSE / SCHEMA).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *protos], cwd=HOUSE, check=True)

    fresh = {path.name: path.read_text() for path in (tmp_path / SCHEMA).iterdir()}
    kept = {path.name: path.read_text() for path in (HOUSE / SCHEMA).glob("*_pb2.py*")}
    assert kept == fresh, "run `make proto`"
