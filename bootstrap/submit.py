"""Run a job by spark-submit, with a terminal a newcomer can read."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from bootstrap.errors import LaunchError
from bootstrap.processes import Supervised
from bootstrap.spark_home import LOOPBACK, spark_environment, spark_home

INTERRUPTED = 130
STOP_SECONDS = 30.0
LOG_CONFIG = Path(__file__).with_name("conf") / "log4j2.properties"

_MASTERS = ("local", "spark://", "yarn", "k8s://")
# The JVM itself prints these before any log configuration can have a say.
_JVM_NOISE = ("WARNING: Using incubator modules:", "NOTE: Picked up JDK_JAVA_OPTIONS:", "netlib-")
_PYTHON_NOISE = "PySpark does not yet fully support pandas"


def submit(
    script: Path,
    args: Sequence[str],
    master: str,
    *,
    properties_file: Path | None = None,
    conf: Mapping[str, str] | None = None,
    py_files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: BinaryIO | None = None,
    timeout: float | None = None,
) -> int:
    """Run a Python script by spark-submit and wait for it.

    Ctrl-C asks the job to end, so that it gives its executors back, and kills it after `STOP_SECONDS`; a second Ctrl-C
    kills it at once.

    Args:
        script: The application.
        args: Its arguments.
        master: The Spark master, as `local[2]` or `spark://host:7077`.
        properties_file: Spark properties, the place for a secret: arguments can be read by everyone on the machine.
        conf: Spark properties on top; never a secret.
        py_files: Python files or archives for the executors.
        environment: Variables for the job on top of ours.
        stdout: Where the script's output goes, as in `subprocess.Popen`; by default to ours.
        stderr: Where Spark's log goes; by default to ours.
        timeout: Seconds the job may take; no limit by default.

    Returns:
        The script's exit code, 130 after Ctrl-C.

    Raises:
        LaunchError: Where the job cannot be started, or takes longer than the timeout.
    """
    command = submit_command(script, args, master, properties_file=properties_file, conf=conf, py_files=py_files)
    process = Supervised(
        command,
        environment=submit_environment(master, environment or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        grace=STOP_SECONDS,
    )
    log = _Log(process.stderr, stderr or sys.stderr.buffer)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{script.name} did not end within its limit of {timeout:g} s and was stopped.") from None
    except KeyboardInterrupt:
        log.muted = True  # what tasks say when they are stopped is no news
        return INTERRUPTED
    finally:
        _stop(process)
        log.join(5.0)


def submit_command(
    script: Path,
    args: Sequence[str],
    master: str,
    *,
    properties_file: Path | None = None,
    conf: Mapping[str, str] | None = None,
    py_files: Sequence[Path] = (),
) -> list[str]:
    """The spark-submit command line of `submit`."""
    if not script.is_file():
        raise LaunchError(f"The script to run, {script}, is not there.")
    if properties_file is not None and not properties_file.is_file():
        raise LaunchError(f"The properties file {properties_file} is not there.")
    if not master.startswith(_MASTERS):
        raise LaunchError(f"{master!r} is no Spark master: give local[2], spark://host:7077, yarn or k8s://host.")
    settings = {"spark.ui.showConsoleProgress": "false"}
    if on_this_machine(master):
        settings |= {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK}
    settings |= conf or {}
    command = [str(spark_home() / "bin" / "spark-submit"), "--master", master]
    if properties_file is not None:
        command += ["--properties-file", str(properties_file)]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    if py_files:
        command += ["--py-files", ",".join(str(path) for path in py_files)]
    return [*command, str(script), *args]


def submit_environment(master: str, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of `submit`, `own` variables included."""
    # Here and not in --driver-java-options, which would replace what the user's own configuration says there.
    options = [os.environ.get("SPARK_SUBMIT_OPTS", ""), f'"-Dlog4j2.configurationFile={LOG_CONFIG.as_uri()}"']
    warnings = [os.environ.get("PYTHONWARNINGS", ""), f"ignore:{_PYTHON_NOISE}"]
    ours = {
        "SPARK_SUBMIT_OPTS": " ".join(option for option in options if option),
        "PYTHONWARNINGS": ",".join(warning for warning in warnings if warning),
    }
    if on_this_machine(master):
        ours["SPARK_LOCAL_IP"] = LOOPBACK
    return spark_environment({**ours, **own})


def on_this_machine(master: str) -> bool:
    """Whether everything a job of this master talks to runs on this machine."""
    host = master.removeprefix("spark://").rpartition(":")[0]
    return master.startswith("local") or host in (LOOPBACK, "localhost")


def _stop(process: Supervised) -> None:
    """Stop the job, at once where Ctrl-C comes again."""
    try:
        # SIGTERM to all of it, where a terminal would send SIGINT: the JVM treats both alike, and Python and py4j, in
        # the middle of a call, answer SIGINT by pages of stack traces.
        process.stop()
    except KeyboardInterrupt:
        process.kill()


class _Log(threading.Thread):
    """Copies a log line by line, without the JVM's own noise."""

    def __init__(self, source: IO[bytes] | None, sink: BinaryIO) -> None:
        super().__init__(name="spark-log", daemon=True)
        self.muted = False
        self._source = source
        self._sink = sink
        self.start()

    def run(self) -> None:
        """Copy until the job closes its end."""
        noise = tuple(text.encode() for text in _JVM_NOISE)
        if self._source is None:
            return
        with self._source:
            for line in self._source:
                if not self.muted and not line.startswith(noise):
                    self._sink.write(line)
                    self._sink.flush()
