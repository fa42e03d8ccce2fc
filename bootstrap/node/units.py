"""systemd's units of a node, as text."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bootstrap.node import spark
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodePlan

_SYSTEMCTL_SECONDS = 120.0


def service_units(plan: NodePlan, layout: Layout, wheel: Path) -> dict[str, str]:
    """Our own services: the boot after the first one, the guard, and what the role asks for.

    The master keeps what jobs were sent; a worker watches for spot notices, and a master is always on demand.

    They run on the image's Python out of our wheel, whatever became of the environment for jobs.
    """
    lasting = {"guard": "ends this node at its deadline, or idle"}
    if plan.role == "master":
        lasting["sent"] = "keeps what jobs were sent for nodes that come later"
    else:
        lasting["spot"] = "hears that EC2 takes this node back"
    return {
        "cos-boot.service": _unit(
            "COS: makes this machine a node of its cluster",
            {**_ours(layout, wheel, "boot"), "Type": "oneshot", "RemainAfterExit": "yes", "LimitMEMLOCK": "infinity"},
            wanted=True,
        ),
        **{
            f"cos-{duty}.service": _unit(
                f"COS: {meaning}",
                {**_ours(layout, wheel, duty), "Restart": "always", "RestartSec": "5"},
                wanted=True,
            )
            for duty, meaning in lasting.items()
        },
    }


def spark_units(plan: NodePlan, node: spark.Node, layout: Layout, user: str) -> dict[str, str]:
    """Spark's daemons. They are started by the boot, which has checked the node, and not by themselves."""
    names = ("master", "history") if plan.role == "master" else ("worker",)
    return {
        f"cos-{name}.service": _unit(
            f"COS: Spark standalone's {name}",
            {
                "User": user,
                "Environment": _quoted(f"SPARK_CONF_DIR={layout.spark_conf}"),
                "EnvironmentFile": f"-{layout.environment}",
                "ExecStart": shlex.join(spark.daemon(plan, node, name)),
                "Restart": "always",
                "RestartSec": "5",
                "SuccessExitStatus": "143",  # how a JVM ends by SIGTERM
                "TimeoutStopSec": "30",
                "LimitMEMLOCK": "infinity",
                "LimitNOFILE": "1048576",
                "LimitCORE": "0",  # a core file would hold the secret
                "NoNewPrivileges": "yes",
                "UMask": "0027",
                "StandardOutput": f"append:{layout.logs}/spark/{name}.log",
                "StandardError": "inherit",
            },
        )
        for name in names
    }


def install(directory: Path, units: Mapping[str, str]) -> None:
    """Write units that systemd knows from now on."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        beside = directory / f".{name}.part"
        beside.write_text(text)
        beside.replace(directory / name)
    systemctl("daemon-reload")


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it says.

    Raises:
        OSError: It fails, or does not end in time.
    """
    command = ["systemctl", *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMCTL_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{shlex.join(command)} did not end within {_SYSTEMCTL_SECONDS:g} s.") from None
    return ended.stdout


def _ours(layout: Layout, wheel: Path, verb: str) -> dict[str, str]:
    return {
        "Environment": _quoted(f"PYTHONPATH={wheel}"),
        "EnvironmentFile": f"-{layout.environment}",
        "ExecStart": shlex.join([sys.executable, "-m", "bootstrap.node", verb]),
        "StandardOutput": "journal+console",
    }


def _quoted(assignment: str) -> str:
    return f'"{assignment}"'


def _unit(description: str, service: Mapping[str, str], *, wanted: bool = False) -> str:
    sections: Sequence[tuple[str, Mapping[str, str]]] = (
        ("Unit", {"Description": description, "Wants": "network-online.target", "After": "network-online.target"}),
        ("Service", service),
        ("Install", {"WantedBy": "multi-user.target"} if wanted else {}),
    )
    return "\n".join(_section(name, body) for name, body in sections if body)


def _section(name: str, body: Mapping[str, str]) -> str:
    return "".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in body.items())])
