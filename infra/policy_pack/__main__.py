"""Hands the rules of infra.policies to Pulumi: a plan that breaks one is refused."""

import sys
from pathlib import Path

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    StackValidationArgs,
    StackValidationPolicy,
)

# The pack has an environment of its own, which the project is not installed in.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from infra.policies import POLICIES, Policy, Resource


def over_stack(policy: Policy) -> StackValidationPolicy:
    """A rule as Pulumi takes it."""

    def validate(arguments: StackValidationArgs, report: ReportViolation) -> None:
        resources = {entry.urn: Resource(entry.resource_type, entry.name, entry.props) for entry in arguments.resources}
        urns = {id(resource): urn for urn, resource in resources.items()}
        for resource, problem in policy.check(list(resources.values())):
            report(f"{resource.name} {problem}.", urns[id(resource)])

    return StackValidationPolicy(policy.name, policy.description, validate, EnforcementLevel.MANDATORY)


PolicyPack("cos", [over_stack(policy) for policy in POLICIES])
