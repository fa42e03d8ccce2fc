"""Spark standalone's configuration on a node.

The daemons know each other by one secret and encrypt what they say. The master's page, the history and the
applications' pages listen on the loopback alone: whoever comes by an ssh tunnel sees them, and the workers' pages
behind the master's reverse proxy.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodePlan

MASTER_PORT = 7077
MASTER_UI_PORT = 8080
WORKER_PORT = 7078
WORKER_UI_PORT = 8081
HISTORY_PORT = 18080
LOOPBACK = "127.0.0.1"
# What is left for Linux, the daemons and page cache: Spark's own default is 1 GiB.
_RESERVED_MIB = 1024
_EVENT_LOG_DAYS = 30

GPU_SCRIPT = """#!/bin/sh
# Spark's discovery script: the GPUs by their index, as {"name": "gpu", "addresses": ["0", "1"]}.
found=$(nvidia-smi --query-gpu=index --format=csv,noheader) || exit 1
printf '{"name": "gpu", "addresses": ['
printf '%s' "$found" | sed 's/.*/"&"/' | paste -sd, -
printf ']}\\n'
"""


class Node(NamedTuple):
    """What the node has learnt of itself when its configuration is written.

    Attributes:
        address: Its private IPv4 address.
        cores: Tasks it runs side by side.
        memory_mib: Its memory in MiB.
        scratch: Spark's local directory.
        python: The interpreter of driver and executors.
        java_home: JAVA_HOME of daemons and executors.
    """

    address: str
    cores: int
    memory_mib: int
    scratch: Path
    python: Path
    java_home: Path


def master_url(plan: NodePlan, address: str) -> str:
    """The master as daemons and applications name it."""
    return f"spark://{plan.master_host or address}:{MASTER_PORT}"


def worker_memory_mib(memory_mib: int) -> int:
    """What a worker offers to executors, in MiB."""
    return max(memory_mib - _RESERVED_MIB, _RESERVED_MIB // 2)


def properties(plan: NodePlan, node: Node, layout: Layout, secret: str) -> dict[str, str]:
    """spark-defaults.conf of a node."""
    shared = {
        "spark.master": master_url(plan, node.address),
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.network.crypto.enabled": "true",
        # It runs whatever anyone sends it, and listens by default since Spark 4.1.
        "spark.master.rest.enabled": "false",
        "spark.master.ui.decommission.allow.mode": "DENY",
        "spark.ui.killEnabled": "false",
        "spark.ui.reverseProxy": "true",
        "spark.decommission.enabled": "true",
        "spark.storage.decommission.enabled": "true",
        "spark.executor.decommission.killInterval": "120s",  # the notice that EC2 gives
        "spark.dynamicAllocation.enabled": "false",  # a barrier stage needs its slots at once
    }
    return {**shared, **(_master(node, layout) if plan.role == "master" else _worker(plan, layout))}


def _master(node: Node, layout: Layout) -> dict[str, str]:
    events = (layout.state / "events").as_uri()
    return {
        "spark.deploy.recoveryMode": "FILESYSTEM",
        "spark.deploy.recoveryDirectory": str(layout.state / "recovery"),
        # Until then a master that was restarted gives nobody an executor, where an application has ended meanwhile.
        "spark.deploy.recoveryTimeout": "15s",
        "spark.master.ui.historyServerUrl": f"http://{LOOPBACK}:{HISTORY_PORT}",
        "spark.driver.host": node.address,
        "spark.driver.bindAddress": node.address,
        "spark.pyspark.python": str(node.python),
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": events,
        "spark.history.fs.logDirectory": events,
        "spark.history.ui.port": str(HISTORY_PORT),
        "spark.history.fs.cleaner.enabled": "true",
        "spark.history.fs.cleaner.maxAge": f"{_EVENT_LOG_DAYS}d",
    }


def _worker(plan: NodePlan, layout: Layout) -> dict[str, str]:
    cleanup = {"spark.worker.cleanup.enabled": "true"}
    if not plan.expected.gpus:
        return cleanup
    return {
        **cleanup,
        "spark.worker.resource.gpu.amount": str(plan.expected.gpus),
        "spark.worker.resource.gpu.discoveryScript": str(layout.spark_conf / "gpus.sh"),
    }


def environment(plan: NodePlan, node: Node, layout: Layout) -> dict[str, str]:
    """The variables of Spark's programs on a node: of the daemons, and of whoever submits on the master."""
    return {
        "JAVA_HOME": str(node.java_home),
        "SPARK_HOME": str(spark_home(node.python)),
        "SPARK_CONF_DIR": str(layout.spark_conf),
        # The pages listen here. Daemons and drivers listen where their own options say.
        "SPARK_LOCAL_IP": LOOPBACK if plan.role == "master" else node.address,
        "SPARK_LOCAL_DIRS": str(node.scratch / "spark"),
        "SPARK_DAEMON_MEMORY": "1g",
        "PYSPARK_PYTHON": str(node.python),
        "COS_SPOT_NOTICE": str(layout.spot_notice),
    }


def spark_home(python: Path) -> Path:
    """The Spark of an environment: PySpark's own, so that daemons and applications cannot differ."""
    found = sorted(python.parent.parent.glob("lib/python3*/site-packages/pyspark"))
    if not found:
        raise FileNotFoundError(f"The environment of {python} has no pyspark.")
    return found[0]


def daemon(plan: NodePlan, node: Node, name: str) -> list[str]:
    """The command of `master`, `worker` or `history`."""
    program = str(spark_home(node.python) / "bin/spark-class")
    if name == "history":
        return [program, "org.apache.spark.deploy.history.HistoryServer"]
    if name == "master":
        ports = ["--port", str(MASTER_PORT), "--webui-port", str(MASTER_UI_PORT)]
        return [program, "org.apache.spark.deploy.master.Master", "--host", node.address, *ports]
    ports = ["--port", str(WORKER_PORT), "--webui-port", str(WORKER_UI_PORT)]
    offer = ["--cores", str(node.cores), "--memory", f"{worker_memory_mib(node.memory_mib)}m"]
    work = ["--work-dir", str(node.scratch / "work")]
    main = "org.apache.spark.deploy.worker.Worker"
    return [program, main, "--host", node.address, *ports, *offer, *work, master_url(plan, node.address)]


def write(plan: NodePlan, node: Node, layout: Layout, secret: str, user: str) -> None:
    """Write Spark's configuration, the secret for its user alone; another time it is the same."""
    conf = layout.spark_conf
    conf.mkdir(parents=True, exist_ok=True)
    settings = "".join(f"{name} {value}\n" for name, value in properties(plan, node, layout, secret).items())
    _write(conf / "spark-defaults.conf", settings, 0o600, user)
    exports = environment(plan, node, layout)
    _write(conf / "spark-env.sh", "".join(f"export {name}={value}\n" for name, value in exports.items()), 0o644, user)
    _write(conf / "gpus.sh", GPU_SCRIPT, 0o755, user)
    for directory in _own_directories(plan, node, layout):
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, user)


def _own_directories(plan: NodePlan, node: Node, layout: Layout) -> list[Path]:
    """What Spark's user writes to."""
    own = [node.scratch / "spark", node.scratch / "work", layout.logs / "spark"]
    if plan.role == "master":
        own += [layout.state / "recovery", layout.state / "events", layout.jobs]
    return own


def _write(path: Path, content: str, mode: int, user: str) -> None:
    """Write a file beside and rename it, closed from its first byte on."""
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(content)
    beside.chmod(mode)  # whatever the umask
    shutil.chown(beside, user)
    beside.replace(path)
