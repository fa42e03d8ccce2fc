"""Every resource that a configuration leads to, without engine and AWS: the program runs on Pulumi's mocks."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from pulumi.runtime import mocks, rpc, set_mocks, test

from infra.config import ClusterConfig
from infra.program import declare


@dataclass(frozen=True)
class Planned:
    """A resource of the plan.

    Attributes:
        urn: Pulumi's name of it.
        type: Type token, as `aws:ec2/vpc:Vpc`.
        name: Its logical name.
        inputs: Its inputs, in camel case, with ids made up for what does not exist yet.
        needs: URNs of the resources that have to exist first.
    """

    urn: str
    type: str
    name: str
    inputs: dict[str, Any]
    needs: frozenset[str]


_ADDRESSED = ("aws:ec2/eip:Eip", "aws:ec2/instance:Instance", "aws:ec2/networkInterface:NetworkInterface")


@dataclass
class _Recorder(mocks.Mocks):
    """Stands in for the AWS provider: ids, ARNs and addresses are made up."""

    _addresses: "itertools.count[int]" = field(default_factory=lambda: itertools.count(10))

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """The state of a made-up resource."""
        state = {"arn": f"arn:aws:mock:::{args.name}", "name": args.name, "keyName": args.name, **args.inputs}
        if args.typ in _ADDRESSED:
            high, low = divmod(next(self._addresses), 256)
            state["privateIp"] = f"10.42.{high}.{low}"
            state["publicIp"] = f"198.51.{100 + high}.{low}"
        return f"{args.name}-id", state

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], None]:
        """The program looks nothing up."""
        raise NotImplementedError(args.token)


class _Monitor(mocks.MockMonitor):
    """Keeps what the program registers, with what each resource needs."""

    def __init__(self, recorder: mocks.Mocks) -> None:
        super().__init__(recorder)
        self.planned: list[Planned] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's name
        """Register a resource, and keep it when it is one of a provider's."""
        answer = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.custom and not request.type.startswith("pulumi:providers:"):
            inputs = rpc.deserialize_properties(request.object)
            needs = frozenset(request.dependencies)
            self.planned.append(Planned(answer.urn, request.type, request.name, inputs, needs))
        return answer


def plan(config: ClusterConfig) -> list[Planned]:
    """The resources of a cluster, in the order in which they were declared."""
    monitor = _Monitor(_Recorder())
    set_mocks(monitor.mocks, project="cos", stack=config.cluster, preview=False, monitor=monitor)
    # Pulumi names it for its use in tests; it is what waits for all that was declared.
    test(lambda: declare(config))()  # type: ignore[no-untyped-call]
    return monitor.planned
