"""The verbs against a cluster whose nodes are a real sshd."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.cli.nodes import ssh_command
from bootstrap.cluster import save
from tests.fixtures.command import cos, known_cluster
from tests.fixtures.sshd import Server, make_key

PROGRAM = """
import os, sys
from pathlib import Path
import mine
print("says", mine.WORD, *sys.argv[1:], flush=True)
Path("result.txt").write_text(mine.WORD)
sys.exit(int(sys.argv[1]))
"""

pytestmark = pytest.mark.usefixtures("cos_home")


@pytest.fixture
def lab(sshd: Server, tmp_path: Path, cos_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the nodes of a cluster `lab`: a master and a worker."""
    known_cluster(sshd, tmp_path / "node", sys.executable)
    monkeypatch.setenv("COS_CLUSTER", "lab")
    return tmp_path / "node"


@pytest.mark.slow
def test_a_job_on_a_cluster(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mine.py").write_text('WORD = "hello"\n')
    assert cos("submit", "--detach", "--name", "greets", "--code", "mine.py", "program.py", "0", "--flag") == 0
    out, err = capfd.readouterr()
    assert out == "1\n"
    # The two nodes share a folder here: a file may be there already when the second asks for it.
    assert re.search(r"2 files on 2 nodes, [234] of them sent now\.", err)
    assert cos("logs", "-f") == 0
    assert capfd.readouterr().out == "says hello 0 --flag\n"
    assert cos("jobs", "--json") == 0
    (job,) = json.loads(capfd.readouterr().out)
    assert (job["name"], job["state"], job["kind"]) == ("greets", "succeeded", "program")
    assert (lab / "jobs" / "1" / "work" / "result.txt").read_text() == "hello"

    assert cos("submit", "--code", "mine.py", "program.py", "7") == 7
    out, err = capfd.readouterr()
    assert out == "says hello 7\n"
    assert err.splitlines() == [
        "2 files on 2 nodes, 0 of them sent now.",
        "cos: job 2 failed: it ended with exit code 7: its log tells more",
    ]
    assert cos("retry", "2") == 7
    out, err = capfd.readouterr()
    assert out == "says hello 7\n"
    assert "job 3 failed" in err
    assert cos("attach", "greets") == 0
    assert cos("fetch", "greets") == 2
    assert "has written nothing to bring" in capfd.readouterr().err


def test_nodes(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cos("run", "--", "sh", "-c", "echo here; exit 3") == 3
    out, err = capfd.readouterr()
    assert out == "master: here\nworker-0: here\n"
    assert err == "master: exit code 3\nworker-0: exit code 3\n"
    assert cos("run", "--nodes", "worker-0", "--", "echo", "alone") == 0
    assert capfd.readouterr().out == "alone\n"
    assert cos("run", "--nodes", "worker-7", "--", "true") == 2
    assert "There is no node 'worker-7': choose from master, workers, all, worker-0." in capfd.readouterr().err

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("a")
    assert cos("push", "folder", str(lab / "pushed")) == 0
    assert capfd.readouterr().err == "copied: 1 (0.0 MB), there already: 0\n"
    assert cos("pull", str(lab / "pushed"), "pulled", "--node", "worker-0", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"files": 1, "skipped": 0, "bytes": 1}
    assert (tmp_path / "pulled" / "a").read_text() == "a"


def test_openssh_trusts_the_pinned_keys_alone(
    sshd: Server, tmp_path: Path, cos_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster = known_cluster(sshd, tmp_path / "node", sys.executable)
    for address in cluster.addresses():
        command = ssh_command(address, ["echo", "there"])
        assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"there\n"
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    cluster = known_cluster(sshd, tmp_path / "node", sys.executable, keys=[other])
    command = ssh_command(cluster.addresses()[0], ["echo", "there"])
    refused = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert refused.returncode == 255
    assert b"Host key verification failed" in refused.stderr


def test_a_passphrase_is_asked_for_once(sshd: Server, tmp_path: Path, cos_home: Path) -> None:
    key = tmp_path / "encrypted"
    shutil.copy(sshd.key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
    cluster = known_cluster(sshd, tmp_path / "node", sys.executable, workers=3)
    save(cluster.model_copy(update={"key_file": str(key)}))
    command = shlex.join([sys.executable, "-m", "bootstrap.cli", "run", "--cluster", "lab", "--", "echo", "there"])
    # `script` gives it a terminal, which is where a person is asked.
    terminal = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
    with subprocess.Popen(terminal, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked = b""
        while not asked.endswith(b"encrypted: "):
            asked += process.stdout.read(1)
        out, _ = process.communicate(b"open sesame\n", timeout=60)
    assert process.returncode == 0
    assert b"Passphrase" not in out
    assert sorted(out.decode().split("\r\n")) == ["", "", "master: there", *(f"worker-{n}: there" for n in range(3))]


def test_an_impostor_and_a_node_that_is_away(sshd: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known_cluster(sshd, tmp_path / "node", sys.executable, keys=[other])
    assert cos("jobs", "--cluster", "lab") == 2
    assert "is not the pinned one" in capfd.readouterr().err
    known_cluster(sshd, tmp_path / "node", "/no/such/python")
    assert cos("jobs", "--cluster", "lab") == 2
    assert "master cannot run jobs" in capfd.readouterr().err
