"""The transcripts of the launcher's document are what the commands say.

A `...` in the document stands for whatever is there, times and figures as a rule.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.jobs import MakeJob

REPOSITORY = Path(__file__).resolve().parents[3]
DOCUMENT = REPOSITORY / "docs" / "launcher.md"
SCRATCH = Path("/tmp/cos-transcript")  # noqa: S108 - as the document has it
SECONDS = 280


def transcript() -> list[tuple[str, str]]:
    """The document's commands with what they say."""
    blocks = re.findall(r"^```console\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step]
    return [(command, said) for command, _, said in (step.partition("\n") for step in steps)]


@pytest.mark.long
def test_the_document_says_what_the_commands_say(make_job: MakeJob) -> None:
    folder = make_job(records=64, max_iter=20, solver="display: 10 snapshot: 10 snapshot_prefix: 'tiny'").path
    cos = f'cos() {{ "{sys.executable}" -m bootstrap.cli "$@"; }}'
    environment = {**os.environ, "COS_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"}
    environment.pop("COS_CLUSTER", None)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for command, expected in transcript():
        ended = subprocess.run(
            ["bash", "-c", f"{cos}; {command} 2>&1"],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        said = ended.stdout.replace(str(folder), "/home/me/tiny")
        if "COS_WRITE" in os.environ:
            print(f"$ {command}\n{said}", end="")
            continue
        assert doctest.OutputChecker().check_output(expected, said, doctest.ELLIPSIS), f"$ {command}\n{said}"
    shutil.rmtree(SCRATCH, ignore_errors=True)
