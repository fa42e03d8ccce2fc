"""What a killed `up` leaves behind: files of Pulumi's state that are cut short, and resources that the state lacks.

Pulumi notes a resource before and after it makes it. Killed in between, it does not know whether there is one, and
would make another beside it, or fail because the name is taken.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from bootstrap.errors import FailedError
from bootstrap.teardown import Place, remove_orphans

_POLL_SECONDS = 0.5
_ENGINE_SECONDS = 60.0
_HOLDER = re.compile(r"created by (.+)@(.+) \(pid (\d+)\)")


def wait_for_engine(state: Path, name: str, seconds: float = _ENGINE_SECONDS) -> None:
    """Wait until no process of Pulumi's is at the stack: that of a `cos` which alone was killed ends what it is at.

    Args:
        state: The folder of Pulumi's file backend.
        name: The stack.
        seconds: The limit.

    Raises:
        FailedError: One still is after the seconds.
    """
    deadline = time.monotonic() + seconds
    while living := [pid for pid in _holders(state, name) if _is_pulumi(pid)]:
        if time.monotonic() > deadline:
            raise FailedError(
                f"Pulumi (process {living[0]}), which a cos that was killed has left, still works on {name} after "
                f"{seconds:.0f} s: wait until it is done, or end it by `kill {living[0]}`."
            )
        time.sleep(_POLL_SECONDS)


def _holders(state: Path, name: str) -> Iterator[int]:
    """The processes of this machine that Pulumi's locks of a stack tell of; they may have ended."""
    for lock in state.glob(f".pulumi/locks/**/{name}/*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # gone, or cut short
            told = json.loads(lock.read_text())
            if told["hostname"] == socket.gethostname():
                yield int(told["pid"])


def _is_pulumi(pid: int) -> bool:
    """Whether it runs, and is not somebody who was given its number since."""
    ps = ["ps", "-o", "stat=", "-o", "comm=", "-p", str(pid)]
    state, _, command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip().partition(" ")
    return Path(command.strip()).name == "pulumi" and not state.startswith("Z")  # a zombie: it has ended


def others(refusal: str) -> list[str]:
    """Who holds a stack by Pulumi's refusal, less processes of this machine that have ended: theirs may be broken."""
    holders = _HOLDER.findall(refusal)
    if not holders:  # Pulumi's own service does not name them
        return ["Somebody"]
    here = socket.gethostname()
    return [f"{user}@{host} (process {pid})" for user, host, pid in holders if host != here or _is_pulumi(int(pid))]


def mend(state: Path, name: str) -> bool:
    """Make the files of a stack readable again; whether one was not.

    Beside each file lies another with its attributes, which Pulumi can do without. The file itself has the backup that
    Pulumi makes of it before it writes it anew. Where the file is lost, the lock that a killed run has left goes too:
    Pulumi cancels none of a stack that it does not know, and makes no stack that is locked.

    Args:
        state: The folder of Pulumi's file backend.
        name: The stack.
    """
    mended = False
    for attributes in state.glob(f".pulumi/**/{name}.json*.attrs"):
        if not _is_whole(attributes):
            attributes.unlink()
            mended = True
    for backup in state.glob(f".pulumi/stacks/**/{name}.json.bak"):
        file = backup.with_suffix("")
        if not _is_whole(file) and _is_whole(backup):
            beside = file.with_name(f".{file.name}.part")
            shutil.copyfile(backup, beside)
            beside.replace(file)
            mended = True
    if not any(state.glob(f".pulumi/stacks/**/{name}.json")):
        for lock in state.glob(f".pulumi/locks/**/{name}/*.json"):
            lock.unlink()
    return mended


def _is_whole(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def clear(place: Place, cluster: str, deployment: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Remove what was made and not noted: what bears the cluster's tag, and what bears none.

    Args:
        place: The region.
        cluster: The cluster.
        deployment: Pulumi's state of it, with what it was about to make.
        tell: Told each.
    """
    known = {entry["id"] for entry in deployment.get("resources", []) if entry.get("id")}
    for found in remove_orphans(place, cluster, known):
        tell(f"removed {found.kind} {found.id}, which an interrupted run had left")
    for operation in deployment.get("pending_operations", []):
        resource = operation["resource"]
        undo = _UNDO.get(resource["type"])
        if operation["type"] == "creating" and undo is not None:
            with contextlib.suppress(ClientError):  # it was not made yet
                undo(place, resource["inputs"])


def _drop_route(place: Place, inputs: Mapping[str, Any]) -> None:
    place.ec2.delete_route(RouteTableId=inputs["routeTableId"], DestinationCidrBlock=inputs["destinationCidrBlock"])


def _drop_association(place: Place, inputs: Mapping[str, Any]) -> None:
    tables = place.ec2.describe_route_tables(RouteTableIds=[inputs["routeTableId"]])["RouteTables"]
    for association in (each for table in tables for each in table["Associations"]):
        if association.get("SubnetId") == inputs["subnetId"]:
            place.ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])


def _drop_rule(place: Place, inputs: Mapping[str, Any]) -> None:
    group = inputs["securityGroupId"]
    found = place.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
    for rule in found["SecurityGroupRules"]:
        if {"Key": "Name", "Value": inputs["tags"]["Name"]} in rule.get("Tags", []):
            way = "egress" if rule["IsEgress"] else "ingress"
            revoke = getattr(place.ec2, f"revoke_security_group_{way}")
            revoke(GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])


def _drop_schedule(place: Place, inputs: Mapping[str, Any]) -> None:
    place.client("scheduler").delete_schedule(GroupName=inputs["groupName"], Name=inputs["name"])


# What has no tag of its own, or is not found by it; what Pulumi puts in place over what is there needs nothing.
_UNDO: Mapping[str, Callable[[Place, Mapping[str, Any]], None]] = {
    "aws:ec2/route:Route": _drop_route,
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _drop_association,
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _drop_rule,
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _drop_rule,
    "aws:scheduler/schedule:Schedule": _drop_schedule,
}
