"""`doctor`: what is wrong with the laptop, the credentials, the cluster and each of its nodes, each in a sentence."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bootstrap.cluster import Cluster
from bootstrap.clusters.engine import find_command
from bootstrap.clusters.running import State
from bootstrap.errors import LaunchError
from bootstrap.host import Host
from bootstrap.ssh.address import Address
from bootstrap.ssh.keys import load_key
from bootstrap.ssh.parallel import on_all
from infra.instances import facts as type_facts

Level = Literal["ok", "warning", "error"]
Open = Callable[[Address], AbstractContextManager[Host]]

_CLOCK_SECONDS = 2.0
_FREE_SHARE = 0.1
_NODE_SECONDS = 120.0
_PROBE_SECONDS = 300.0
_PROBE_PORT = 29517
# Of the type's peak: EFA gets near it; one stream of TCP is held at 5 to 10 Gbit/s by EC2.
_SHARES = {"efa": 0.5, "ethernet": 0.1}
_SPARK_PORTS = {"master": 7077, "worker": 7078}


class Check(NamedTuple):
    """What one check found: `where` is `laptop`, `credentials`, `cluster` or a node."""

    level: Level
    where: str
    message: str


def laptop(known: Cluster | None) -> Iterator[Check]:
    """The tools here, and the key."""
    yield Check("ok", "laptop", f"Python {sys.version.split()[0]}")
    try:
        yield Check("ok", "laptop", f"pulumi in {find_command()}")
    except LaunchError as error:
        yield Check("error", "laptop", str(error))
    wanted = ["ssh"] + (["aws", "session-manager-plugin"] if known is not None and known.ssh_via == "ssm" else [])
    for tool in wanted:
        found = shutil.which(tool)
        yield Check("ok" if found else "error", "laptop", found or f"There is no `{tool}` on PATH: install it.")
    if known is not None and known.key_file is not None:
        path = Path(known.key_file).expanduser()
        try:
            load_key(path)
        except LaunchError as error:
            yield Check("error", "laptop", str(error))
        else:
            yield Check("ok", "laptop", f"key {path}")


def credentials(state: State) -> Check:
    """Who AWS takes us for."""
    identity = state.place.client("sts").get_caller_identity()
    return Check("ok", "credentials", f"{identity['Arn']} in account {identity['Account']}")


def cluster(state: State, known: Cluster | None) -> Iterator[Check]:
    """What EC2 and the bucket tell of the cluster."""
    if not state.live:
        yield Check("error", "cluster", f"{state.name} has no nodes: `cos up --cluster {state.name}` makes them.")
        return
    if state.deadline is not None:
        left = (state.deadline.timestamp() - time.time()) / 3600
        yield Check("ok" if left > 1 else "warning", "cluster", f"{left:.1f} h to the deadline: `cos extend` moves it.")
    for node in state.live:
        found = state.readiness.get(node.id)
        if node.state != "running":
            yield Check("warning", node.name, f"is {node.state}: `cos start` goes on.")
        elif found is not None and found.state != "ready":
            yield Check("error", node.name, f"{found.state}: {'; '.join(found.reasons) or 'it is on its way'}")
    if known is None:
        yield Check("error", "cluster", f"Its facts are not here: `cos status --cluster {state.name}` writes them.")


def nodes(known: Cluster, open_host: Open) -> Iterator[Check]:
    """What each node says of itself."""
    addresses = known.addresses()
    master = f"{known.master.private_ip}:{_SPARK_PORTS['master']}"
    workers = [f"{node.private_ip}:{_SPARK_PORTS['worker']}" for node in known.workers]

    def ask(address: Address) -> dict[str, Any]:
        with open_host(address) as host:
            return _ask(host, known, workers if address.name == "master" else [master])

    for address, answer in on_all(addresses, ask):
        if isinstance(answer, LaunchError):
            yield Check("error", address.name, str(answer))
        else:
            yield from judge(address.name, answer)


def _ask(host: Host, known: Cluster, ports: Sequence[str]) -> dict[str, Any]:
    prefix = ["sudo", "-n"] if known.sudo else []
    began = time.time()
    ended = host.run([*prefix, *host.python, "-m", "bootstrap.node.doctor", *ports], seconds=_NODE_SECONDS)
    if ended.code:
        tail = ended.errors.decode(errors="replace").strip().splitlines()
        raise LaunchError(f"It cannot tell of itself: {tail[-1] if tail else f'exit code {ended.code}'}")
    answer: dict[str, Any] = json.loads(ended.output)
    # It looked at its clock somewhere between our two looks.
    answer["clock_off"] = max(began - answer["clock"], answer["clock"] - time.time(), 0.0)
    return answer


def judge(name: str, answer: dict[str, Any]) -> Iterator[Check]:
    """A node's answer as checks. A node that asked for EFA and lacks it is refused: jobs would go by TCP, slowly."""
    wanted, there = answer["expected_efa"], answer["efa"]
    if there < wanted:
        yield Check(
            "error", name, f"{wanted} EFAs were asked for and {there} are there: TCP in their place is refused."
        )
    yield from (Check("error", name, shortage) for shortage in answer["shortages"])
    if answer["clock_off"] > _CLOCK_SECONDS:
        yield Check("warning", name, f"Its clock is {answer['clock_off']:.0f} s off: look at chrony there.")
    for path, free in answer["disks"].items():
        if free < _FREE_SHARE:
            yield Check("warning", name, f"{path} has {free:.0%} free: `cos run -- df -h` tells of what.")
    for unit, state in answer["services"].items():
        if state != "active":
            yield Check("error", name, f"{unit} is {state}: see `cos run --nodes {name} -- systemctl status {unit}`.")
    for port in [port for port, reached in answer["ports"].items() if not reached]:
        yield Check("error", name, f"It does not reach {port}: look at the security group, and at Spark there.")
    if not answer["shortages"]:
        driver = f", NVIDIA driver {answer['driver']}" if answer["driver"] else ""
        yield Check("ok", name, f"hardware as its type promises, {there} EFAs{driver}")


def probe(known: Cluster, state: State, open_host: Open, *, efa: bool) -> Iterator[Check]:
    """Measure the allreduce among the workers and hold it against the type's link."""
    workers = known.addresses()[1:]
    if len(workers) < 2:
        yield Check("ok", "cluster", "One worker exchanges nothing: no bandwidth to measure.")
        return
    kind = type_facts(next(node.type for node in state.live if node.role == "worker"))
    connection = "efa" if efa and kind.gpus else "ethernet"
    rank = {address.name: index for index, address in enumerate(workers)}

    def run(address: Address) -> str:
        own = known.workers[rank[address.name]].private_ip
        torchrun = [
            "-m", "torch.distributed.run", f"--nnodes={len(workers)}", f"--nproc-per-node={max(1, kind.gpus)}",
            f"--node-rank={rank[address.name]}", f"--master-addr={known.workers[0].private_ip}",
            f"--master-port={_PROBE_PORT}", "-m", "bootstrap.clusters.allreduce", connection, own,
        ]  # fmt: skip
        with open_host(address) as host:
            ended = host.run([*host.python, *torchrun], seconds=_PROBE_SECONDS)
        if ended.code:
            lines = [line for line in ended.errors.decode(errors="replace").splitlines() if "Error" in line]
            raise LaunchError(f"The probe failed: {lines[-1].strip() if lines else f'exit code {ended.code}'}")
        return ended.output.decode()

    answers = dict(on_all(workers, run, limit=len(workers)))
    failed = [(address, answer) for address, answer in answers.items() if isinstance(answer, LaunchError)]
    for address, error in failed:
        yield Check("error", address.name, str(error))
    if not failed:
        yield bandwidth(float(str(answers[workers[0]]).split()[-1]), kind.network_gbps, connection)


def bandwidth(gbps: float, link_gbps: float, connection: str) -> Check:
    """A measured bus bandwidth against the link, both in Gbit/s."""
    share = gbps / link_gbps
    said = f"allreduce by {connection}: {gbps:.3g} Gbit/s, {share:.0%} of the link's {link_gbps:g}"
    level: Level = "ok" if share >= _SHARES[connection] else "warning"
    return Check(level, "cluster", said)
