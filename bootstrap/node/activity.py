"""Whether anybody uses the cluster: Spark's applications by its JSON pages, people by their ssh sessions."""

import http.client
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bootstrap.node import spark

_ANSWER_SECONDS = 5.0
# How sshd names the process of a session: `sshd: ubuntu@pts/0`, `sshd-session: ubuntu@notty` from OpenSSH 9.8 on, and
# `sshd: ubuntu` where only ports are forwarded, as on the master for a session on a worker.
# Who has not shown a key yet is `sshd: ubuntu [net]`.
_SESSION = re.compile(rb"sshd(-session)?: [^ @\[\0]+(@|\0|$)")


def ask_page(url: str) -> dict[str, Any]:
    """The JSON page of one of Spark's daemons.

    Raises:
        OSError: No answer, or another one.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"{url} answers by status {answer.status}")
        page: dict[str, Any] = json.loads(body)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url} gives no JSON: {error!r}") from error
    finally:
        connection.close()
    return page


def applications(url: str = f"http://{spark.LOOPBACK}:{spark.MASTER_UI_PORT}/json/") -> int:
    """Applications that run or wait, by the master's page; 0 where there is no master to run them."""
    try:
        return len(ask_page(url)["activeapps"])
    except OSError:
        return 0


def executors(address: str) -> int:
    """Executors on a worker, by its page; 0 where there is no worker to run them."""
    try:
        return len(ask_page(f"http://{address}:{spark.WORKER_UI_PORT}/json/")["executors"])
    except OSError:
        return 0


def ssh_sessions(proc: Path = Path("/proc")) -> int:
    """Sessions of people who are logged in, with or without a terminal."""
    found = 0
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            found += bool(_SESSION.match(path.read_bytes()))
        except OSError:  # it ended meanwhile
            continue
    return found
