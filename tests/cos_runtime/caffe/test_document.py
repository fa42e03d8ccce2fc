"""docs/caffe.md says what the code knows: every layer, solver, learning-rate policy and field."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from cos_runtime.caffe.layers import LAYERS
from cos_runtime.caffe.layers.base import Layer
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.caffe.solver import POLICIES, RULES

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (REPOSITORY / "docs" / "caffe.md").read_text()
# The code puts these names together, as f"{name}_h" and f"det_{name}".
COMPOSED = re.compile(r"(pad|stride|img|step)_[hw]|det_\w+")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    after = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in after.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def summary(layer: type[Layer]) -> str:
    """The first paragraph of a layer's docstring, as the table has it."""
    paragraph = " ".join((layer.__doc__ or "").strip().split("\n\n")[0].split())
    return paragraph.replace("``", "`").replace(r"\|", "|").replace("|", r"\|")


def test_layers() -> None:
    expected = {name: summary(layer) for name, layer in LAYERS.items() if layer.__module__.startswith("cos_runtime")}
    told = {name.strip("`"): what for name, what, _ in rows("Layers")}
    table = "\n".join(f"| `{name}` | {what} | |" for name, what in sorted(expected.items()))
    assert told == expected, f"the table of docs/caffe.md would be\n{table}"


def test_solvers_and_policies() -> None:
    assert {name.strip("`") for name, _ in rows("Solvers")} == RULES.keys()
    assert {name.strip("`"): tuple(re.findall(r"`(\w+)`", fields)) for name, fields in rows("Learning rates")} == {
        name: policy.fields for name, policy in POLICIES.items()
    }


def fields(message: Descriptor, seen: set[str]) -> Iterator[tuple[str, str]]:
    """The fields of a message and of those within it."""
    if message.full_name not in seen:
        seen.add(message.full_name)
        for field in message.fields:
            yield message.name, field.name
            if field.message_type:
                yield from fields(field.message_type, seen)


def test_fields_without_effect() -> None:
    sources = [path.read_text() for path in (REPOSITORY / "cos_runtime").rglob("*.py") if "_pb2" not in path.name]
    words = set(re.findall(r"\w+", "\n".join(sources)))
    seen: set[str] = set()
    every = {*fields(NetParameter.DESCRIPTOR, seen), *fields(SolverParameter.DESCRIPTOR, seen)}
    unread = {(message, field) for message, field in every if not (field in words or COMPOSED.fullmatch(field))}

    told = {
        (row[0].strip("`"), name) for row in rows("Fields without effect") for name in re.findall(r"`(\w+)`", row[1])
    }
    assert told == unread
