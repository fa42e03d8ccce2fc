"""Sentences for what pydantic finds wrong in a configuration: the key, the value, the remedy."""

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class ConfigError(LaunchError):
    """The configuration is refused; nothing was declared."""


def sentence(model: type[BaseModel], problem: "ErrorDetails") -> str:
    """One problem as a sentence.

    Args:
        model: The whole configuration's model.
        problem: As pydantic's `ValidationError.errors()` lists it.
    """
    place = problem["loc"]
    if not place:  # a rule over several keys, which names them itself
        return _ended(_message(problem))
    owner = _owner(model, place[:-1])
    key = "cos:" + _path(place)
    if problem["type"] == "extra_forbidden":
        return f"{key} is no key of the configuration: {_ended(_near(str(place[-1]), owner))}"
    remedy = _remedy(model, place)
    if problem["type"] == "missing":
        return f"{key} is not set: {remedy}."
    return f"{key} is {problem['input']!r}: {_message(problem)}; {remedy}."


def _ended(text: str) -> str:
    return text if text.endswith("?") else text + "."


def _message(problem: "ErrorDetails") -> str:
    text = problem["msg"].removeprefix("Value error, ")
    return text if problem["type"] == "value_error" else text[:1].lower() + text[1:]


def _path(place: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _near(name: str, owner: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, owner.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"remove it, the keys are {', '.join(owner.model_fields)}"


def _owner(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the last key of a place belongs to."""
    for part in place:
        inner = _model_of(model.model_fields[part].annotation) if part in model.model_fields else None
        model = inner or model
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_of(argument))), None)


def _remedy(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """What the innermost field of a place says of itself."""
    names = [part for part in place if isinstance(part, str)]
    for depth in range(len(names), 0, -1):
        field = _owner(model, tuple(names[: depth - 1])).model_fields.get(names[depth - 1])
        if field is not None and isinstance(field.json_schema_extra, dict):
            return str(field.json_schema_extra["remedy"])
    return "remove it"
