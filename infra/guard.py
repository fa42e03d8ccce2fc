"""What ends a cluster from outside of its nodes, and who hears of its cost."""

import json
from collections.abc import Callable
from typing import Any

import pulumi
from pulumi_aws import budgets, ec2, iam, scheduler

from infra.access import trust
from infra.config import ClusterConfig
from infra.launch import Site

_EC2 = "arn:aws:scheduler:::aws-sdk:ec2"


class Guard(pulumi.ComponentResource):
    """Schedules that end each node, NAT gateway and interface endpoint at the deadline, and a budget.

    A schedule a node, for EC2 refuses a whole request over one id it no longer knows, as that of a spot node long gone.
    Addresses stay: they cannot go before what has them has gone, and `cos extend` moves all schedules to one time.
    """

    def __init__(self, site: Site, instances: dict[str, ec2.Instance]) -> None:
        config, labels = site.config, site.labels
        super().__init__("cos:infra:Guard", labels.name("guard"), opts=site.opts)
        self._labels, self._deadline = labels, config.deadline
        self._here = pulumi.ResourceOptions(parent=self)
        self._role_arn = self._role(config).arn
        group = scheduler.ScheduleGroup(labels.name("deadline"), tags=labels.tags("deadline"), opts=self._here)
        self._group = group.name
        for node, instance in instances.items():
            self._end(node, "terminateInstances", instance.id, lambda name: {"InstanceIds": [name]})
        if site.network.nat_gateway is not None:
            self._end("nat", "deleteNatGateway", site.network.nat_gateway, lambda name: {"NatGatewayId": name})
        for service, endpoint in site.access.endpoints.items():
            self._end(service, "deleteVpcEndpoints", endpoint, lambda name: {"VpcEndpointIds": [name]})
        if config.budget_usd is not None:
            self._budget(config.region, config.budget_usd, str(config.budget_email))
        self.register_outputs({})

    def _end(self, part: str, action: str, target: pulumi.Output[str], asked: Callable[[str], dict[str, Any]]) -> None:
        """A schedule that has EC2 do something with what has this id."""
        scheduler.Schedule(
            self._labels.name(part),
            group_name=self._group,
            description=f"Ends {self._labels.name(part)} at its deadline",
            schedule_expression=f"at({self._deadline:%Y-%m-%dT%H:%M:%S})",
            schedule_expression_timezone="UTC",
            flexible_time_window={"mode": "OFF"},
            target={
                "arn": f"{_EC2}:{action}",
                "role_arn": self._role_arn,
                "input": target.apply(lambda name: json.dumps(asked(name))),
                "retry_policy": {"maximum_retry_attempts": 20, "maximum_event_age_in_seconds": 3600},
            },
            opts=self._here,
        )

    def _role(self, config: ClusterConfig) -> iam.Role:
        labels = self._labels
        role = iam.Role(
            labels.name("deadline"),
            assume_role_policy=trust("scheduler.amazonaws.com"),
            tags=labels.tags("deadline", region=config.region),
            opts=self._here,
        )
        iam.RolePolicy(
            labels.name("deadline"),
            role=role.id,
            policy=json.dumps(ending_policy(config.region, labels.cluster)),
            opts=self._here,
        )
        return role

    def _budget(self, region: str, usd: float, email: str) -> None:
        labels = self._labels

        def notification(threshold: int, kind: str) -> budgets.BudgetNotificationArgsDict:
            return {
                "comparison_operator": "GREATER_THAN",
                "threshold": threshold,
                "threshold_type": "PERCENTAGE",
                "notification_type": kind,
                "subscriber_email_addresses": [email],
            }

        budgets.Budget(
            labels.name(f"budget-{region}"),  # by which teardown.py knows whose it is
            budget_type="COST",
            limit_amount=f"{usd:.2f}",
            limit_unit="USD",
            time_unit="MONTHLY",
            cost_filters=[{"name": "TagKeyValue", "values": [f"user:cos:cluster${labels.cluster}"]}],
            notifications=[notification(80, "ACTUAL"), notification(100, "FORECASTED")],
            tags=labels.tags("budget", region=region),
            opts=self._here,
        )


def ending_policy(region: str, cluster: str) -> dict[str, Any]:
    """What the schedules may do: end what bills by the hour of this cluster."""
    statement = {
        "Sid": "EndThisCluster",
        "Effect": "Allow",
        "Action": ["ec2:TerminateInstances", "ec2:DeleteNatGateway", "ec2:DeleteVpcEndpoints"],
        "Resource": [f"arn:aws:ec2:{region}:*:{kind}/*" for kind in ("instance", "natgateway", "vpc-endpoint")],
        "Condition": {"StringEquals": {"aws:ResourceTag/cos:cluster": cluster}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}
