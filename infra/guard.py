"""What ends a cluster from outside of its nodes, and who hears of its cost."""

import json
from typing import Any

import pulumi
from pulumi_aws import budgets, ec2, iam, scheduler

from infra.access import trust
from infra.config import ClusterConfig
from infra.labels import Labels

_TERMINATE = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"


class Guard(pulumi.ComponentResource):
    """A schedule that terminates each node at the deadline, and a budget.

    A schedule a node, for EC2 refuses a whole request over one id it no longer knows, as that of a spot node long gone.
    """

    def __init__(
        self,
        config: ClusterConfig,
        labels: Labels,
        instances: dict[str, ec2.Instance],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("cos:infra:Guard", labels.name("guard"), opts=opts)
        self._labels = labels
        self._here = pulumi.ResourceOptions(parent=self)
        role = self._role(config)
        group = scheduler.ScheduleGroup(labels.name("deadline"), tags=labels.tags("deadline"), opts=self._here)
        for node, instance in instances.items():
            scheduler.Schedule(
                labels.name(node),
                group_name=group.name,
                description=f"Terminates {labels.name(node)} at its deadline",
                schedule_expression=f"at({config.deadline:%Y-%m-%dT%H:%M:%S})",
                schedule_expression_timezone="UTC",
                flexible_time_window={"mode": "OFF"},
                target={
                    "arn": _TERMINATE,
                    "role_arn": role.arn,
                    "input": instance.id.apply(lambda value: json.dumps({"InstanceIds": [value]})),
                    "retry_policy": {"maximum_retry_attempts": 20, "maximum_event_age_in_seconds": 3600},
                },
                opts=self._here,
            )
        if config.budget_usd is not None:
            self._budget(config.region, config.budget_usd, str(config.budget_email))
        self.register_outputs({})

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
            policy=json.dumps(terminate_policy(config.region, labels.cluster)),
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


def terminate_policy(region: str, cluster: str) -> dict[str, Any]:
    """What the schedules may do: terminate instances of this cluster."""
    statement = {
        "Sid": "TerminateThisCluster",
        "Effect": "Allow",
        "Action": "ec2:TerminateInstances",
        "Resource": f"arn:aws:ec2:{region}:*:instance/*",
        "Condition": {"StringEquals": {"aws:ResourceTag/cos:cluster": cluster}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}
