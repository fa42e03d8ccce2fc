"""A machine becomes a node: checked, equipped, part of its cluster. Again at every boot, with the same end."""

import logging
import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bootstrap.node import hardware, install, scratch, sent, spark, units
from bootstrap.node.activity import ask_page
from bootstrap.node.context import Context
from bootstrap.node.secret import spark_secret
from bootstrap.node.seed import SeedError, fetch_files, fetch_manifest, refuse, report

START_SECONDS = 900.0  # workers start beside a master that may still be fetching its kit
_POLL_SECONDS = 1.0
_LOG_LINES = 20
# They would lock dpkg, restart services and change the driver below a running job.
_DISTURBERS = ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service")

_log = logging.getLogger("boot")


def boot(context: Context) -> int:
    """Make this machine a node; the exit code, 1 where it does not join."""
    try:
        context.layout.status.unlink(missing_ok=True)  # the last boot's: the guard asks whether this one is over
        _start_guard(context)
        lacking = hardware.shortages(context.plan.expected)
        if lacking:
            refuse(context, [str(shortage) for shortage in lacking])
            return 1
        _join(context)
    except (SeedError, OSError, subprocess.SubprocessError) as error:
        refuse(context, [str(error)])
        return 1
    _log.info("ready: %s of %s", context.plan.role, context.plan.cluster)
    report(context, {"state": "ready", "reasons": []})
    return 0


def _start_guard(context: Context) -> None:
    """The guard before all that can fail or take long; and this boot itself, for the next time."""
    wheel = context.layout.kit / fetch_manifest(context.plan, context.aws, context.layout.kit).wheel().name
    ours = units.service_units(context.plan, context.layout, wheel)
    units.install(context.layout.units, ours)
    units.systemctl("enable", *ours)
    units.systemctl("start", *(name for name in ours if name != "cos-boot.service"))
    try:
        units.systemctl("mask", "--now", *_DISTURBERS)
    except OSError as error:  # an image without them is as good
        _log.info("%s", error)


def _join(context: Context) -> None:
    """Equip the node and start its daemons."""
    plan, layout, aws, metadata = context
    manifest = fetch_manifest(plan, aws, layout.kit)
    fetch_files(plan, manifest.files, aws, layout.kit)
    node = spark.Node(
        address=metadata.fact("local-ipv4"),
        cores=plan.expected.vcpus,
        memory_mib=hardware.memory_mib(),
        scratch=scratch.prepare(layout),
        python=install.python_of(manifest, layout),
        java_home=install.java_home(layout),
    )
    user = _user()
    spark.write(plan, node, layout, spark_secret(plan, aws), user)
    daemons = units.spark_units(plan, node, layout, user)
    units.install(layout.units, daemons)
    if plan.role == "worker":
        sent.fetch(context)  # before Spark gives it to a job that is running
    units.systemctl("start", *daemons)
    if plan.role == "master":
        _wait_for("the master's page", f"http://{spark.LOOPBACK}:{spark.MASTER_UI_PORT}/json/", "url", context)
    else:
        page = f"http://{node.address}:{spark.WORKER_UI_PORT}/json/"
        _wait_for(f"{spark.master_url(plan, node.address)} to take this worker", page, "masterurl", context)


def _user() -> str:
    """The user that daemons and jobs run as, made where there is none."""
    user = os.environ.get("COS_USER", "spark")
    try:
        pwd.getpwnam(user)
    except KeyError:
        command = ["useradd", "--system", "--create-home", "--shell", "/bin/bash", user]
        subprocess.run(command, check=True, capture_output=True, timeout=60.0)
    return user


def _wait_for(what: str, page: str, field: str, context: Context, seconds: float = START_SECONDS) -> None:
    """Wait until a daemon's JSON page has something in a field.

    Raises:
        SeedError: It has not within the seconds; the sentence ends by the daemon's log.
    """
    deadline = time.monotonic() + seconds
    while not _filled(lambda: ask_page(page), field):
        if time.monotonic() > deadline:
            tail = _tail(context.layout.logs / "spark" / f"{context.plan.role}.log")
            raise SeedError(f"Waited {seconds:g} s for {what}, in vain. The end of its log:\n{tail}")
        time.sleep(_POLL_SECONDS)


def _filled(ask: Callable[[], dict[str, object]], field: str) -> bool:
    try:
        return bool(ask().get(field))
    except OSError:
        return False


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    except OSError as error:
        return str(error)
