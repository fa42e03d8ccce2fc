"""Stand-ins for what surrounds a node: the metadata service, and programs that note how they were called."""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_CREDENTIALS = '{"AccessKeyId": "AKID", "SecretAccessKey": "S/K+", "Token": "TT=="}'


class MetadataServer:
    """An instance metadata service, version 2: it wants a token, and answers by what `entries` has.

    Attributes:
        entries: Texts by their path below `/latest/`.
        ahead: Seconds by which its clock is ahead of ours.
        token: The one token that counts.
    """

    def __init__(self) -> None:
        self.entries = {
            "meta-data/instance-id": "i-0123456789abcdef0",
            "meta-data/local-ipv4": "127.0.0.1",
            "meta-data/iam/security-credentials/": "node",
            "meta-data/iam/security-credentials/node": _CREDENTIALS,
        }
        self.ahead = 0.0
        self.token = "token-1"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer(200 if self.path == "/latest/api/token" else 404, service.token)

            def do_GET(self) -> None:
                text = service.entries.get(self.path.removeprefix("/latest/"))
                if self.headers["X-aws-ec2-metadata-token"] != service.token:
                    self._answer(401, "")
                else:
                    self._answer(404 if text is None else 200, text or "")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate((timestamp or time.time()) + service.ahead, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Programs:
    """Programs on PATH that do as they are told and note each call.

    Args:
        directory: Comes first on PATH.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "calls.log"

    def add(self, name: str, script: str = "") -> None:
        """Make a program of a shell script; the call is noted first."""
        path = self._directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self._log}"\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """The arguments of each call so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def cloud_init(user_data: str, root: Path, environment: Mapping[str, str]) -> int:
    """Do what cloud-init does with user data, below another root; the exit code of the last command."""
    config = json.loads(user_data.partition("\n")[2])
    code = 0
    for command in config["bootcmd"]:
        subprocess.run(command, env=environment, check=False)
    for file in config["write_files"]:
        path = root / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = file["content"].encode()
        path.write_bytes(base64.b64decode(content) if file.get("encoding") == "b64" else content)
        path.chmod(int(file["permissions"], 8))
    with (root / "console").open("ab") as console:
        for command in config["runcmd"]:
            code = subprocess.run(command, env=environment, stdout=console, stderr=console, check=False).returncode
    return code


def processes_of(text: str) -> list[int]:
    """Processes whose environment has a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if os.fsencode(text) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # not ours, or ended meanwhile
            continue
    return found
