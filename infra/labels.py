"""Names and tags of a cluster's resources."""

import datetime
from dataclasses import dataclass

from infra.config import ClusterConfig


@dataclass(frozen=True)
class Labels:
    """What every resource is named and tagged by.

    Attributes:
        cluster: Its name, the first part of every resource's.
        owner: Who answers for it.
        deadline: When it ends, ISO 8601 in UTC.
    """

    cluster: str
    owner: str
    deadline: str

    @classmethod
    def of(cls, config: ClusterConfig) -> "Labels":
        """The labels that a configuration asks for."""
        return cls(config.cluster, config.owner, iso(config.deadline))

    def name(self, part: str) -> str:
        """The name of a resource."""
        return f"{self.cluster}-{part}"

    def tags(self, part: str, **more: str) -> dict[str, str]:
        """Tags of a resource; `more` are those of an instance, as `role` for `cos:role`."""
        return {
            **self.lasting(part),
            "cos:deadline": self.deadline,
            **{f"cos:{key}": value for key, value in more.items()},
        }

    def lasting(self, part: str) -> dict[str, str]:
        """Tags that an extension of the deadline leaves as they are."""
        return {"Name": self.name(part), "cos:cluster": self.cluster, "cos:owner": self.owner}


def iso(moment: datetime.datetime) -> str:
    """A moment as the tags and outputs have it, as 2026-11-26T18:00:00Z."""
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
