"""The first thing of ours that runs on a node: it fetches the kit's manifest and our own wheel, and goes on in there.

It came with the user data, and knows nothing but Python's standard library, curl and the plan.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bootstrap.node.aws import Aws, AwsError
from bootstrap.node.context import Context
from bootstrap.node.layout import INJECTED
from bootstrap.node.plan import NodePlan
from bootstrap.node.tell import tell_to

MANIFEST_SECONDS = 900.0  # the bucket is made beside the nodes, and a laptop may still be uploading the kit
FILE_SECONDS = 900.0
REPORT_SECONDS = 300.0
_POLL_SECONDS = 5.0
_AT_ONCE = 8
_TRIES = 3

_log = logging.getLogger("seed")


class SeedError(Exception):
    """Why the node cannot go on, in one sentence."""


class KitFile(NamedTuple):
    """A file of the kit as the manifest names it; `size` in bytes."""

    name: str
    size: int
    sha256: str
    sha512: str


class Manifest(NamedTuple):
    """What the kit consists of: `python` is the version it was made for, as `3.12`."""

    python: str
    machine: str
    files: tuple[KitFile, ...]

    def wheel(self) -> KitFile:
        """Our own wheel: Python runs it as it is."""
        return next(file for file in self.files if file.name.startswith("wheelhouse/cos-"))

    @classmethod
    def parse(cls, text: str) -> "Manifest":
        """The manifest in its JSON."""
        fields = json.loads(text)
        files = tuple(KitFile(**{name: entry[name] for name in KitFile._fields}) for entry in fields["files"])
        return cls(fields["python"], fields["machine"], files)


def fetch_manifest(plan: NodePlan, aws: Aws, directory: Path, wait_seconds: float = MANIFEST_SECONDS) -> Manifest:
    """Bring the kit's manifest into a directory.

    Args:
        plan: Names the kit, whose last part is the manifest's SHA-256.
        aws: Where the bucket is.
        directory: The kit's directory on the node.
        wait_seconds: Limit for the manifest to appear, which is uploaded last.

    Raises:
        SeedError: It does not come, or is not the one that the plan names.
    """
    path = directory / "manifest.json"
    wanted = plan.kit.rpartition("/")[2]
    deadline = time.monotonic() + wait_seconds
    while not (path.is_file() and digest(path, "sha256") == wanted):
        try:
            aws.get_object(plan.bucket, f"{plan.kit}/manifest.json", path, _POLL_SECONDS * 4)
        except OSError as error:
            if time.monotonic() > deadline:
                raise SeedError(f"Waited {wait_seconds:g} s for the kit in {plan.bucket}, in vain: {error}.") from None
            _log.info("waiting for the kit: %s", error)
            time.sleep(min(_POLL_SECONDS, wait_seconds))
            continue
        if digest(path, "sha256") != wanted:
            path.unlink()
            raise SeedError(f"The manifest of {plan.kit} is not the one that the user data names: build the kit anew.")
    return Manifest.parse(path.read_text())


def fetch_files(plan: NodePlan, files: Iterable[KitFile], aws: Aws, directory: Path) -> None:
    """Bring files of the kit into its directory, side by side; those that are there and right stay.

    Raises:
        SeedError: A file is not there, or not what the manifest says.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for fetched in [threads.submit(_fetch_file, plan, file, aws, directory) for file in files]:
            fetched.result()


def _fetch_file(plan: NodePlan, file: KitFile, aws: Aws, directory: Path) -> None:
    """Bring one file, and again where it did not come whole."""
    path = directory / file.name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise SeedError(f"The kit's manifest names {file.name}, which lies outside of the kit.")
    refusal = "its SHA-512 is another one"
    for _ in range(_TRIES):
        if path.is_file() and digest(path, "sha512") == file.sha512:
            return
        try:
            aws.get_object(plan.bucket, blob_key(plan.kit, file.sha256), path, FILE_SECONDS)
        except AwsError as error:
            refusal = str(error)
    if path.is_file() and digest(path, "sha512") == file.sha512:
        return
    path.unlink(missing_ok=True)
    raise SeedError(f"The kit's {file.name} did not come as the manifest has it ({refusal}): upload the kit anew.")


def blob_key(kit: str, sha256: str) -> str:
    """Where a file lies in the bucket: beside all kits, by what it is, as kits have most of their files in common."""
    return f"{kit.rpartition('/')[0]}/blobs/{sha256}"


def digest(path: Path, name: str) -> str:
    """The file's digest of this name, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def keep_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Write the injected variables where our services read them."""
    lines = [f'{name}="{environment[name]}"\n' for name in INJECTED if name in environment]
    path.write_text("".join(lines))


def refuse(context: Context, reasons: list[str], seconds: float = REPORT_SECONDS) -> None:
    """Say aloud that the node does not join, and why: console, status file, bucket."""
    for reason in reasons:
        _log.error("REFUSED: %s", reason)
    report(context, {"state": "refused", "reasons": reasons}, seconds)


def report(context: Context, status: Mapping[str, object], seconds: float = REPORT_SECONDS) -> None:
    """Write the status file, and bring it and the boot's log to the bucket; again for minutes, for it is waited for."""
    deadline = time.monotonic() + seconds
    while not _reported(context, status) and time.monotonic() < deadline:
        time.sleep(min(_POLL_SECONDS, seconds))


def _reported(context: Context, status: Mapping[str, object]) -> bool:
    """Whether the status and the log are in the bucket, the log before it."""
    plan, layout, aws, metadata = context
    is_whole = True
    try:
        instance = metadata.fact("instance-id")
    except OSError as error:
        _log.error("%s", error)
        instance, is_whole = os.uname().nodename, False
    layout.state.mkdir(parents=True, exist_ok=True)
    beside = layout.status.with_suffix(".part")
    beside.write_text(json.dumps({**status, "instance": instance, "role": plan.role, "group": plan.group}, indent=1))
    beside.replace(layout.status)
    for path in (layout.logs / "boot.log", layout.status):
        try:
            aws.put_object(plan.bucket, f"nodes/{instance}/{path.name}", path, 60.0)
        except OSError as error:
            _log.error("%s could not be saved in the bucket: %s", path.name, error)
            is_whole = False
    return is_whole


def main() -> int:
    """Fetch our wheel and hand over to `bootstrap.node` in there; the exit code."""
    context = Context.of_this_node()
    plan, layout, aws, _ = context
    tell_to(layout.logs / "boot.log")
    keep_environment(layout.environment, os.environ)
    try:
        wheel = fetch_manifest(plan, aws, layout.kit).wheel()
        fetch_files(plan, [wheel], aws, layout.kit)
    except SeedError as error:
        refuse(context, [str(error)])
        return 1
    inside = {**os.environ, "PYTHONPATH": str(layout.kit / wheel.name)}
    return subprocess.run([sys.executable, "-m", "bootstrap.node", "boot"], env=inside, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
