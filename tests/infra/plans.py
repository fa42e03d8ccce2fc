"""Plans of configurations, each made once."""

import functools
import json
from typing import Any

from infra.config import ClusterConfig
from infra.plan import example
from infra.planned import Planned, plan
from infra.policies import Resource


def config(preset: str = "cpu-small", **values: Any) -> ClusterConfig:
    return example(preset, values)


@functools.cache
def _plan(preset: str, values: str) -> tuple[Planned, ...]:
    return tuple(plan(config(preset, **json.loads(values))))


def plan_of(preset: str = "cpu-small", **values: Any) -> tuple[Planned, ...]:
    return _plan(preset, json.dumps(values))


def resources(planned: tuple[Planned, ...]) -> list[Resource]:
    return [Resource(entry.type, entry.name, entry.inputs) for entry in planned]


def of_type(planned: tuple[Planned, ...], name: str) -> list[Planned]:
    return [entry for entry in planned if entry.type.endswith(f":{name}")]
