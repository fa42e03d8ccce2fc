"""A real Spark standalone cluster on this machine: a Master and Workers as daemons of their own."""

import fcntl
import http.client
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bootstrap.errors import LaunchError
from bootstrap.processes import Supervised
from bootstrap.spark_home import LOOPBACK, spark_environment, spark_home

_Found = TypeVar("_Found")

_MASTER_URL = re.compile(r"Starting Spark master at (spark://\S+)")
_WEB_PORT = re.compile(r"Bound MasterWebUI to .* started at https?://\S+:(\d+)")
_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
_HTTP_SECONDS = 5.0
_TAIL_LINES = 15

_MEMORY = re.compile(r"\d+[kmgt]b?", re.IGNORECASE)
# Small and quick to start: the daemons only keep books. No performance data, as it would lie outside our directory.
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_DAEMON_OPTIONS = f"-XX:-UsePerfData {_QUICK}"


class LocalCluster:
    """A Spark standalone cluster on the loopback, up inside the `with` block and gone after it.

    Everything listens on 127.0.0.1 alone, on ports the daemons choose themselves, and knows its peers by a secret that
    stands in files only this user can read. All files lie in one directory, which goes with the cluster. Should this
    process be killed, the daemons end and take the directory with them.

    Args:
        workers: Worker daemons.
        cores: Cores each worker offers, which is the number of tasks it runs at a time.
        memory: Memory each worker offers, as Spark writes it; an application's executor takes all of it.
        directory: Where the cluster makes its own directory; by default among the temporary files.
        gpus: Pretended GPUs each worker offers as the resource `gpu`, for scheduling only.
        quick: Compile less in the JVMs of driver and executors: a short job takes 14 s instead of 22 s (on two cores),
            but what runs for long in a JVM runs slower.
        start_seconds: Limit for the start of master and workers.

    Example:
        >>> with LocalCluster(workers=2) as cluster:
        ...     submit(Path("job.py"), [], **cluster.submit_options())
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        cores: int = 1,
        memory: str = "2g",
        directory: Path | None = None,
        gpus: int = 0,
        quick: bool = False,
        start_seconds: float = 90.0,
    ) -> None:
        if workers < 1 or cores < 1 or gpus < 0:
            raise LaunchError(
                f"A cluster needs a worker and a core, not {workers} workers of {cores} cores, {gpus} GPUs."
            )
        if not _MEMORY.fullmatch(memory):
            raise LaunchError(f"{memory!r} is no amount of memory: give a number and a unit, as in 2g or 512m.")
        self.workers = workers
        self.cores = cores
        self.memory = memory
        self.gpus = gpus
        self._jvm_options = f"-XX:-UsePerfData {_QUICK if quick else ''}".strip()
        self._parent = directory
        self._start_seconds = start_seconds
        self._directory: Path | None = None
        self._lock = -1
        self._daemons: dict[str, Supervised] = {}
        self._secret = ""
        self._master_url = ""
        self._web_port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def directory(self) -> Path:
        """The cluster's own directory: logs, work directories, secrets."""
        if self._directory is None:
            raise LaunchError("The local cluster is not running: use it inside its `with` block.")
        return self._directory

    @property
    def master_url(self) -> str:
        """The master as applications name it: `spark://127.0.0.1:<port>`."""
        return self._master_url

    @property
    def web_url(self) -> str:
        """The master's web page."""
        return f"http://{LOOPBACK}:{self._web_port}"

    @property
    def properties_file(self) -> Path:
        """Spark properties of an application, the secret included; readable by this user alone."""
        return self.directory / "application.properties"

    @property
    def master_log(self) -> Path:
        """The master's log."""
        return self._log("master")

    def worker_logs(self) -> list[Path]:
        """The workers' logs; what executors say lies in `executor_logs`."""
        return [self._log(_worker(index)) for index in range(self.workers)]

    def executor_logs(self) -> list[Path]:
        """What the executors of all applications so far have said, with the Python workers' output."""
        return sorted(self.directory.glob("worker-*/work/*/*/std*"))

    def submit_conf(self) -> dict[str, str]:
        """Properties of an application that are no secret."""
        return {
            "spark.master": self.master_url,
            "spark.driver.host": LOOPBACK,
            "spark.driver.bindAddress": LOOPBACK,
            "spark.executor.memory": self.memory,
            # A session starts once all executors are there: a barrier stage that finds no slots tries again after 15 s.
            "spark.cores.max": str(self.workers * self.cores),
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "60s",
            "spark.driver.defaultJavaOptions": self._jvm_options,
            "spark.executor.defaultJavaOptions": f"{self._jvm_options} {self._temporary_option()}",
        }

    def environment(self) -> dict[str, str]:
        """Variables for an application, so that the driver leaves nothing outside the cluster's directory."""
        return {"SPARK_LOCAL_DIRS": str(self.directory / "driver")}

    def submit_options(self) -> dict[str, Any]:
        """Keyword arguments that make `bootstrap.submit.submit` run on this cluster."""
        return {
            "master": self.master_url,
            "properties_file": self.properties_file,
            "environment": self.environment(),
        }

    def start(self) -> None:
        """Start the daemons and wait until all workers are registered; on failure nothing is left behind."""
        if self._directory is not None:
            raise LaunchError("The local cluster is running already.")
        try:
            self._make_directory()
            deadline = time.monotonic() + self._start_seconds
            self._start_master(deadline)
            for index in range(self.workers):
                self._start_worker(index)
            self._write_properties("application", self.submit_conf())
            self._wait(f"{self.workers} workers to register", self._all_registered, deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the daemons and all executors and remove the directory."""
        try:
            for daemon in self._daemons.values():
                daemon.ask_to_stop()  # all of them first: they end side by side
            for daemon in self._daemons.values():
                daemon.stop()
        finally:
            # Also where Ctrl-C cut the waiting short: without our lock the last of the daemons tidies up behind us.
            self._daemons.clear()
            if self._directory is not None:
                os.close(self._lock)
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    def kill_worker(self, index: int) -> None:
        """Kill a worker and its executors as a machine that fails would."""
        self._daemons[_worker(index)].kill()

    def live_workers(self) -> int:
        """Workers that the master counts as alive."""
        return int(self.master_state()["aliveworkers"])

    def master_state(self) -> dict[str, Any]:
        """What the master says of its workers and applications (its web page's JSON)."""
        connection = http.client.HTTPConnection(LOOPBACK, self._web_port, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", "/json/")
            state: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return state

    def _make_directory(self) -> None:
        """Make the directory, closed to other users, with the secret and an empty configuration."""
        self._directory = Path(tempfile.mkdtemp(prefix="cos-cluster-", dir=self._parent))
        self._lock = os.open(self._directory, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        for name in ("conf", "driver", "tmp"):
            (self._directory / name).mkdir()
        self._secret = secrets.token_hex(32)
        # The REST server runs what anyone sends it, and the pages' buttons kill applications and workers.
        closed = {"spark.master.rest.enabled": "false", "spark.ui.killEnabled": "false"}
        self._write_properties("master", {**closed, "spark.master.ui.decommission.allow.mode": "DENY"})

    def _write_properties(self, name: str, properties: Mapping[str, str]) -> Path:
        """Write a properties file that holds the secret, and that nobody else can read."""
        path = self.directory / f"{name}.properties"
        secret = {"spark.authenticate": "true", "spark.authenticate.secret": self._secret}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{key}={value}\n" for key, value in {**properties, **secret}.items())
        return path

    def _start_master(self, deadline: float) -> None:
        """Start the master and learn its ports."""
        properties = self.directory / "master.properties"
        self._spawn("master", "org.apache.spark.deploy.master.Master", ["--properties-file", str(properties)])
        self._master_url = self._wait("the master's address in its log", self._in_master_log(_MASTER_URL), deadline)
        port = self._wait("the port of the master's web page in its log", self._in_master_log(_WEB_PORT), deadline)
        self._web_port = int(port)

    def _start_worker(self, index: int) -> None:
        """Start a worker, without waiting for it."""
        name = _worker(index)
        home = self.directory / name
        home.mkdir()
        properties = {"spark.ui.killEnabled": "false", **self._gpu_properties(index)}
        options = ["--cores", str(self.cores), "--memory", self.memory, "--work-dir", str(home / "work")]
        options += ["--properties-file", str(self._write_properties(name, properties)), self.master_url]
        local = {"SPARK_LOCAL_DIRS": str(home / "local")}
        self._spawn(name, "org.apache.spark.deploy.worker.Worker", options, local)

    def _gpu_properties(self, index: int) -> dict[str, str]:
        """Properties by which a worker offers its pretended GPUs."""
        if not self.gpus:
            return {}
        addresses = [str(index * self.gpus + gpu) for gpu in range(self.gpus)]
        script = self.directory / f"gpus-{index}.sh"
        script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': addresses})}'\n")
        script.chmod(0o700)
        return {
            "spark.worker.resource.gpu.amount": str(self.gpus),
            "spark.worker.resource.gpu.discoveryScript": str(script),
        }

    def _spawn(self, name: str, main: str, options: list[str], own: Mapping[str, str] | None = None) -> None:
        """Start a daemon, its output going to its log."""
        command = [str(spark_home() / "bin" / "spark-class"), main, "--host", LOOPBACK, "--port", "0"]
        command += ["--webui-port", "0", *options]
        environment = {
            "SPARK_CONF_DIR": str(self.directory / "conf"),
            "SPARK_LOCAL_IP": LOOPBACK,
            "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_DAEMON_JAVA_OPTS": f"{_DAEMON_OPTIONS} {self._temporary_option()}",
            "TMPDIR": str(self.directory / "tmp"),
            **(own or {}),
        }
        with self._log(name).open("wb") as log:
            self._daemons[name] = Supervised(
                command,
                # Whatever SPARK_* variables point to another cluster must not reach the daemons of this one.
                environment=spark_environment(environment, inherit_spark=False),
                directory=self.directory,
                stdout=log,
                stderr=log,
                grace=_STOP_SECONDS,
            )

    def _temporary_option(self) -> str:
        """The JVM option that keeps its temporary files (unpacked native libraries) with the cluster."""
        return f'"-Djava.io.tmpdir={self.directory / "tmp"}"'

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _in_master_log(self, pattern: re.Pattern[str]) -> Callable[[], str | None]:
        """A probe for what the pattern finds in the master's log."""

        def probe() -> str | None:
            found = pattern.search(self.master_log.read_text(errors="replace"))
            return found and found[1]

        return probe

    def _all_registered(self) -> bool | None:
        """True once the master counts every worker as alive."""
        try:
            return self.live_workers() == self.workers or None
        except (OSError, http.client.HTTPException):  # too busy to answer in time: ask again
            return None

    def _wait(self, what: str, probe: Callable[[], _Found | None], deadline: float) -> _Found:
        """Wait until the probe finds something, a daemon dies or the time is over."""
        while True:
            found = probe()
            if found is not None:
                return found
            for name, daemon in self._daemons.items():
                code = daemon.poll()
                if code is not None:
                    raise LaunchError(f"The {name} ended with exit code {code} at start.\n{self._tail(name)}")
            if time.monotonic() > deadline:
                limit = f"{self._start_seconds:g} s"
                raise LaunchError(f"Waited {limit} for {what}, in vain.\n{self._tail(list(self._daemons)[-1])}")
            time.sleep(_POLL_SECONDS)

    def _tail(self, name: str) -> str:
        """The last lines of a daemon's log, under its name: the log itself goes with the cluster."""
        lines = self._log(name).read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"The end of the log of the {name}:", *(f"  {line}" for line in lines)])


def _worker(index: int) -> str:
    return f"worker-{index}"
