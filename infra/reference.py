"""Writes the configuration's keys, from their types, into Pulumi.yaml and docs/infra.md.

Run it as `python -m infra.reference`.
"""

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infra.config import ClusterConfig, keys

_HOUSE = Path(__file__).resolve().parent.parent
PROJECT = _HOUSE / "Pulumi.yaml"
DOCUMENT = _HOUSE / "docs" / "infra.md"
_BEGIN, _END = "<!-- keys: python -m infra.reference -->", "<!-- end of keys -->"


def project() -> str:
    """Pulumi.yaml, with a schema of all keys.

    Pulumi asks for a value or a default for each; an empty default leaves the word to the preset.
    """
    schema = {f"cos:{name}": _declaration(field) for name, field in ClusterConfig.model_fields.items()}
    document = {
        "name": "cos",
        "description": "A Spark cluster on EC2 that trains Caffe nets",
        "main": "infra",
        "runtime": {"name": "python", "options": {"virtualenv": ".venv"}},
        "config": schema,
    }
    return str(yaml.safe_dump(document, sort_keys=False, width=120))


def table() -> str:
    """A Markdown table of all keys."""
    lines = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for key, field in keys():
        type_name = _type_name(field.annotation).replace("|", "\\|")
        lines.append(f"| `{key}` | {type_name} | {_default(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def documented(text: str) -> str:
    """A document with the table between its markers brought up to date."""
    pattern = re.compile(f"(?<={re.escape(_BEGIN)}\n).*?(?={re.escape(_END)})", re.DOTALL)
    return pattern.sub(lambda _: table(), text)


def _declaration(field: FieldInfo) -> dict[str, Any]:
    kind = _inner(field.annotation)
    described = {"description": field.description}
    if kind is bool:
        return {"type": "boolean", **described, "default": field.default}
    if get_origin(kind) is tuple:
        element = "object" if _is_model(get_args(kind)[0]) else "string"
        return {"type": "array", "items": {"type": element}, **described, "default": []}
    if _is_model(kind):
        return {"type": "object", **described, "default": {}}
    # Pulumi's schema knows no fractions.
    return {"type": "string", **described, "default": ""}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _inner(annotation: Any) -> Any:
    """A type without its `None` and its annotations."""
    if get_origin(annotation) is Annotated:
        return _inner(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return _inner(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _type_name(annotation: Any) -> str:
    kind = _inner(annotation)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    if _is_model(kind):
        return "object"
    names = {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}
    return names.get(kind, "time with zone")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "as below"
    if field.default is None or field.default == ():
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def main() -> None:
    """Bring both files up to date."""
    PROJECT.write_text(project())
    DOCUMENT.write_text(documented(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
