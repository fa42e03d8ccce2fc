"""AWS in the lab: moto answers, and what EC2 does behind its API is done to namespaces.

    python -m tests.lab.cloud PREFIX FOLDER WHEEL

It is started in the namespace of the bridge, with a mount namespace of its own, says `ready` on its standard output,
and lives until its standard input ends. What the tests do to it from outside they write to `FOLDER/orders.json`.
"""

import base64
import datetime
import json
import logging
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.fixtures import moto_gaps
from tests.fixtures.pulumi_aws.kinds import Cloud
from tests.lab import api, image, network
from tests.lab.machine import Machine

ENDPOINT = f"http://{network.AWS}"
_POLL_SECONDS = 0.5
_AT_ONCE = 16
_SCALE = 80.0  # a link of 12.5 Gbit/s is one of 1 Gbit/s here

_log = logging.getLogger("lab")


class Orders(NamedTuple):
    """What happens that no API asks for.

    Attributes:
        spot: Instances that have a spot notice.
        lacking: By the `Name` tag, what of its type's hardware an instance lacks when it is launched.
        ahead: Seconds by which the metadata service's clock is ahead of an instance's, by the `Name` tag.
        down: Instances whose link is down, by the `Name` tag.
    """

    spot: tuple[str, ...] = ()
    lacking: Mapping[str, Mapping[str, int]] = {}
    ahead: Mapping[str, float] = {}
    down: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Orders":
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


class Hypervisor:
    """Has the instances of a region do what EC2 says that they do.

    Args:
        prefix: Of the namespaces.
        folder: For disks and consoles.
        source: What instances boot from.
    """

    def __init__(self, prefix: str, folder: Path, source: image.Image) -> None:
        self._prefix, self._folder, self._source = prefix, folder, source
        settings = Config(retries={"total_max_attempts": 1}, max_pool_connections=_AT_ONCE)
        self._ec2 = boto3.client("ec2", endpoint_url=ENDPOINT, region_name="us-east-1", config=settings)
        self._machines: dict[str, Machine] = {}
        self._launched: dict[str, datetime.datetime] = {}
        self._launched_with: dict[str, tuple[str, str]] = {}
        self._work: dict[str, Future[None]] = {}
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._down: set[str] = set()

    def look(self) -> None:
        """Look once at what EC2 says, and begin what is to be done."""
        orders = Orders.read(self._folder / "orders.json")
        pages = self._ec2.describe_instances()["Reservations"]
        instances = [instance for entry in pages for instance in entry["Instances"]]
        groups = {group["GroupId"]: group for group in self._ec2.describe_security_groups()["SecurityGroups"]}
        members: dict[str, list[str]] = {}
        for instance in instances:
            for group in _groups(instance):
                members.setdefault(group, []).append(instance["PrivateIpAddress"])
        for instance in instances:
            busy = self._work.get(instance["InstanceId"])
            if busy is not None and not busy.done():
                continue
            if busy is not None:
                self._work.pop(instance["InstanceId"]).result()
            self._follow(instance, groups, members, orders)
        self._note()

    def _follow(
        self, instance: dict[str, Any], groups: Mapping[str, Any], members: dict[str, list[str]], orders: Orders
    ) -> None:
        """Bring one instance to where EC2 says that it is."""
        name, state = instance["InstanceId"], instance["State"]["Name"]
        machine = self._machines.get(name)
        if state == "running":
            if machine is None:
                lacking = orders.lacking.get(_tag(instance, "Name"), {})
                folder = self._folder / "instances" / name
                machine = Machine(
                    instance, folder, prefix=self._prefix, image=self._source, scale=_SCALE, lacking=lacking
                )
                self._machines[name] = machine
            self._keep(machine, instance, groups, members, orders)
            if self._launched.get(name) != instance["LaunchTime"]:
                self._launched[name] = instance["LaunchTime"]
                machine.power_on()
            elif not machine.is_on:
                # Its own shutdown ends it, as its launch template says.
                self._ec2.terminate_instances(InstanceIds=[name])
        elif machine is not None and state == "stopping":
            self._work[name] = self._threads.submit(_stop, machine)
        elif machine is not None and state == "terminated":
            del self._machines[name]
            self._work[name] = self._threads.submit(_end, machine)

    def _keep(
        self,
        machine: Machine,
        instance: dict[str, Any],
        groups: Mapping[str, Any],
        members: dict[str, list[str]],
        orders: Orders,
    ) -> None:
        """Let the instance's surroundings be as EC2 has them."""
        public = {instance["PublicIpAddress"]} if instance.get("PublicIpAddress") else set()
        own = [groups[group] for group in _groups(instance) if group in groups]
        machine.be_reached(public, tuple(rule for group in own for rule in network.rules_of(group, members)))
        machine.tell(instance, *self._given(instance))
        if machine.id in orders.spot:
            notice = json.dumps({"action": "terminate", "time": "soon"})
            machine.metadata.entries = {**machine.metadata.entries, "meta-data/spot/instance-action": notice}
        machine.metadata.ahead = orders.ahead.get(_tag(instance, "Name"), 0.0)
        is_down = _tag(instance, "Name") in orders.down
        if is_down != (machine.id in self._down):
            self._down ^= {machine.id}
            network.set_link(self._prefix, machine.interface, up=not is_down)

    def _given(self, instance: dict[str, Any]) -> tuple[str, str]:
        """The user data and the public key that the instance was launched with; they are asked for once."""
        name = instance["InstanceId"]
        if name not in self._launched_with:
            found = self._ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")
            user_data = base64.b64decode(found["UserData"].get("Value", "")).decode()
            called = [instance["KeyName"]] if instance.get("KeyName") else []
            pairs = self._ec2.describe_key_pairs(KeyNames=called, IncludePublicKey=True)["KeyPairs"] if called else []
            self._launched_with[name] = user_data, next((str(pair["PublicKey"]) for pair in pairs), "")
        return self._launched_with[name]

    def _note(self) -> None:
        """Tell the tests which process is whose first."""
        path = self._folder / "machines.json"
        told = {name: {"pid": machine.pid, "namespace": machine.namespace} for name, machine in self._machines.items()}
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(told))
        beside.replace(path)

    def close(self) -> None:
        """End all instances."""
        self._threads.shutdown()
        for machine in self._machines.values():
            machine.remove()


def _stop(machine: Machine) -> None:
    machine.power_off()
    api.stopped(machine.id)


def _end(machine: Machine) -> None:
    machine.power_off()
    machine.remove()


def _groups(instance: Mapping[str, Any]) -> set[str]:
    """The security groups of its interfaces."""
    return {group["GroupId"] for interface in instance["NetworkInterfaces"] for group in interface["Groups"]}


def _tag(instance: Mapping[str, Any], name: str) -> str:
    return next((str(tag["Value"]) for tag in instance.get("Tags", []) if tag["Key"] == name), "")


def main(prefix: str, folder: Path, wheel: Path) -> None:
    """Be AWS until the standard input ends."""
    logging.basicConfig(filename=folder / "cloud.log", level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    (folder / "image").mkdir()
    # A layer of a root must not lie within another one, and those of the instances lie over this machine's.
    network.run("mount", "-t", "tmpfs", "tmpfs", str(folder / "image"))
    source = image.build(folder / "image", wheel)
    server = ThreadedMotoServer(network.AWS, 80, verbose=False)
    server.start()
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with pytest.MonkeyPatch.context() as patch:
        api.complete(patch, folder / "instances")
        moto_gaps.fill(patch, Cloud(ENDPOINT, "us-east-1"))
        hypervisor = Hypervisor(prefix, folder, source)
        print("ready", flush=True)
        while not over.wait(_POLL_SECONDS):
            try:
                hypervisor.look()
            except Exception:  # noqa: BLE001 - a cluster is being made or ended meanwhile
                _log.exception("the lab goes on")
        hypervisor.close()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
