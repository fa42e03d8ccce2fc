"""What moto lacks or makes up, in the lab's own terms."""

import base64
import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.ec2 import ec2_backends
from moto.ec2.models import elastic_ip_addresses, elastic_network_interfaces
from moto.ec2.models.instances import Instance, InstanceState
from moto.ec2.responses import EC2Response
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.servicequotas.responses import ServiceQuotasResponse
from werkzeug import Response

from infra.quotas import quota_name
from tests.lab.network import PUBLIC

_VCPUS = 10_000.0
_TYPES = ("m7i.large", "g6.xlarge", "p5.48xlarge", "hpc7a.96xlarge")
_REFUSAL = {"__type": "AccessDeniedException", "message": "the lab has no price list"}


def complete(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have moto answer what it does not by itself.

    Args:
        patch: Takes it back.
        folder: Has a folder with the console of each instance.
    """
    free = [f"{PUBLIC}.{last}" for last in range(1, 255)]
    random.shuffle(free)
    patch.setattr(elastic_ip_addresses, "random_ip", free.pop)
    patch.setattr(elastic_network_interfaces, "random_public_ip", free.pop)
    patch.setattr(EC2Response, "get_console_output", _console(folder))
    patch.setattr(ServiceQuotasResponse, "list_service_quotas", _quotas, raising=False)
    _refuse_pricing(patch)
    _stop_slowly(patch)


def stopped(instance: str) -> None:
    """An instance that was told to stop has done so."""
    state = ec2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].get_instance(instance)._state
    if state.name == "stopping":
        state.name, state.code = "stopped", 80


def _stop_slowly(patch: pytest.MonkeyPatch) -> None:
    """Let an instance be `stopping` until it is off."""
    stop = Instance.stop

    def stopping(instance: Instance) -> InstanceState:
        before = stop(instance)
        instance._state.name, instance._state.code = "stopping", 64
        return before

    patch.setattr(Instance, "stop", stopping)


def _console(folder: Path) -> Callable[[EC2Response], ActionResult]:
    def answer(response: EC2Response) -> ActionResult:
        name = response._get_param("InstanceId")
        path = folder / name / "console"
        text = path.read_bytes() if path.exists() else b""
        now = datetime.datetime.now(datetime.UTC)
        return ActionResult({"InstanceId": name, "Timestamp": now, "Output": base64.b64encode(text).decode()})

    return answer


def _quotas(_response: ServiceQuotasResponse) -> str:
    names = {quota_name(kind, spot) for kind in _TYPES for spot in (False, True)} - {None}
    return json.dumps({"Quotas": [{"QuotaName": name, "Value": _VCPUS} for name in sorted(filter(None, names))]})


def _refuse_pricing(patch: pytest.MonkeyPatch) -> None:
    """Refuse it once: moto's own answer for a service that it lacks would be asked for again and again."""
    find = DomainDispatcherApplication.get_application

    def application(self: DomainDispatcherApplication, environ: dict[str, Any]) -> Any:
        if "/pricing/" in environ.get("HTTP_AUTHORIZATION", ""):
            return Response(json.dumps(_REFUSAL), 400, content_type="application/x-amz-json-1.1")
        return find(self, environ)

    patch.setattr(DomainDispatcherApplication, "get_application", application)
