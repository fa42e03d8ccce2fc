"""What every part of a node works with."""

from typing import NamedTuple

from bootstrap.node.aws import Aws, credentials_of
from bootstrap.node.imds import Metadata
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodePlan


class Context(NamedTuple):
    """The node's plan, its paths, and the services it talks to."""

    plan: NodePlan
    layout: Layout
    aws: Aws
    metadata: Metadata

    @classmethod
    def of_this_node(cls) -> "Context":
        """The context by the files and variables of this node."""
        layout = Layout.from_environment()
        plan = NodePlan.read(layout.plan)
        metadata = Metadata()
        return cls(plan, layout, Aws(plan.region, lambda: credentials_of(metadata)), metadata)
