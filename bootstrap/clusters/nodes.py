"""A cluster's nodes, as EC2 tells of them by tag: true whatever became of Pulumi's state or of this laptop's files."""

import datetime
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bootstrap.errors import LaunchError
from bootstrap.teardown import DEADLINE_TAG, Place, RefusedError, instances

ALL = ("pending", "running", "shutting-down", "stopping", "stopped", "terminated")
LIVE = ("pending", "running", "stopping", "stopped")

_MOMENT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
_NO_LOGIN = ("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired", "SignatureDoes", "UnrecognizedC")
_LOGIN = "run `aws configure` or `aws sso login`"


class Node(NamedTuple):
    """One instance.

    Attributes:
        id: EC2's.
        name: Its name in Pulumi's program, less the cluster's: `master`, `gpu-0`.
        role: The master or a worker.
        group: Its group of workers; `master` for the master.
        type: The instance type.
        spot: Whether EC2 may take it back.
        state: EC2's word for it.
        reason: Why it is in that state, if EC2 says so.
        launched: When it was started last.
        ended: When it ended or stopped; None while it runs, or where EC2 does not say.
        private_ip: In the VPC; empty once it has ended.
        public_ip: On the internet, None without.
        deadline: By its tag.
    """

    id: str
    name: str
    role: Literal["master", "worker"]
    group: str
    type: str
    spot: bool
    state: str
    reason: str
    launched: datetime.datetime
    ended: datetime.datetime | None
    private_ip: str
    public_ip: str | None
    deadline: str

    @property
    def is_live(self) -> bool:
        """Whether it is there, running or stopped."""
        return self.state in LIVE


@contextmanager
def aws_errors() -> Iterator[None]:
    """AWS's refusals as one sentence with the way out.

    Raises:
        LaunchError: AWS refused, or could not be reached.
    """
    try:
        yield
    except RefusedError as error:
        raise LaunchError(str(error)) from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code.startswith(_NO_LOGIN):
            raise LaunchError(f"AWS takes no credentials of yours ({code}): {_LOGIN}.") from error
        raise LaunchError(f"AWS refused: {error}: mend the permission or the setting that it names.") from error
    except BotoCoreError as error:
        raise LaunchError(f"AWS cannot be asked: {error}: {_LOGIN}, and look at region and network.") from error


def place(region: str) -> Place:
    """A region of the account. No request waits longer than half a minute.

    Raises:
        LaunchError: There are no credentials, no such profile, or no such region in AWS's usual part.
    """
    with aws_errors():
        core = botocore.session.get_session()
        limits = Config(connect_timeout=10, read_timeout=30, max_pool_connections=64)
        core.set_default_client_config(limits)
        session = boto3.Session(botocore_session=core, region_name=region)
        if session.get_credentials() is None:
            raise LaunchError(f"There are no credentials of AWS: {_LOGIN}.")
        known = session.get_available_regions("ec2")
        if region not in known:
            raise LaunchError(f"COS knows no region {region!r} of AWS: choose from {', '.join(known)}.")
        return Place(session, region)


def find(where: Place, cluster: str, states: Sequence[str] = LIVE) -> list[Node]:
    """The nodes of a cluster, the master first, workers by name."""
    found = [_node(entry, cluster) for entry in instances(where, cluster, states)]
    return sorted(found, key=lambda node: (node.role != "master", *_natural(node.name)))


def _natural(name: str) -> tuple[str, int]:
    base, _, number = name.rpartition("-")
    return (base, int(number)) if number.isdigit() else (name, 0)


def _node(entry: dict[str, Any], cluster: str) -> Node:
    tags = {tag["Key"]: tag["Value"] for tag in entry.get("Tags", [])}
    state, transition = entry["State"]["Name"], entry.get("StateTransitionReason", "")
    moment = _MOMENT.search(transition)
    return Node(
        id=entry["InstanceId"],
        name=tags.get("Name", entry["InstanceId"]).removeprefix(f"{cluster}-"),
        role="master" if tags.get("cos:role") == "master" else "worker",
        group=tags.get("cos:group", ""),
        type=entry["InstanceType"],
        spot=entry.get("InstanceLifecycle") == "spot",
        state=state,
        reason=entry.get("StateReason", {}).get("Message", "") or transition,
        launched=entry["LaunchTime"],
        ended=datetime.datetime.fromisoformat(f"{moment[1]}+00:00") if moment and state not in LIVE[:2] else None,
        private_ip=entry.get("PrivateIpAddress", ""),
        public_ip=entry.get("PublicIpAddress") or None,
        deadline=tags.get(DEADLINE_TAG, ""),
    )
