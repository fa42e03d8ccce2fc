"""The verbs against a cluster whose nodes are a real sshd."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.cli.nodes import ssh_command
from bootstrap.cluster import save
from bootstrap.jobs import places
from bootstrap.jobs.record import JobRecord, MasterTarget
from bootstrap.jobs.store import JobStore
from bootstrap.specs import Request, there
from bootstrap.uploads import Uploads
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

# What training writes, and what it does not.
WANTED = ["far/tiny_iter_5.solverstate", "tensorboard/events", "tiny.caffemodel", "train.log"]
ALL = sorted([*WANTED, ".rc", "conftest.py"])

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


def test_openssh_leaves_the_persons_own_configuration_out(sshd: Server, tmp_path: Path, cos_home: Path) -> None:
    """A connection that they keep open to another cluster's node of the same private address, say."""
    plug = tmp_path / "plug"
    (tmp_path / "config").write_text(f"Host *\n  ControlPath {plug}\n  ProxyJump nowhere.invalid\n")
    (mine,) = known_cluster(sshd, tmp_path / "node", sys.executable, workers=0).addresses()
    kept_open = [*ssh_command(mine, [])[:-1], "-o", "ControlMaster=yes", "-o", f"ControlPath={plug}"]
    subprocess.run([*kept_open, "-N", "-f", f"{mine.user}@{mine.host}"], timeout=60, check=True)
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (theirs,) = known_cluster(sshd, tmp_path / "node", sys.executable, workers=0, keys=[other]).addresses()
    command = ssh_command(theirs, ["echo", "there"])
    command[1:1] = ["-F", str(tmp_path / "config")]
    try:
        refused = subprocess.run(command, capture_output=True, timeout=60, check=False)
    finally:
        subprocess.run(["ssh", "-o", f"ControlPath={plug}", "-O", "exit", mine.host], capture_output=True, check=True)
    assert (refused.returncode, refused.stdout) == (255, b"")
    assert b"Host key verification failed" in refused.stderr


def entered(folder: Path, lab: Path, model: str) -> JobRecord:
    """A job that trains a model, asked for from here, after it wrote."""
    solver = folder / "solver.prototxt"
    solver.touch()
    flags = {"conf": str(solver), "train": True, "model": model}
    spec = there(Request("train", MasterTarget(master="local[1]"), flags), Uploads(f"{lab}/files", folder / "scratch"))
    record, _ = JobStore(lab / "jobs").create(spec)
    places.keep(spec.token, places.told(spec), record.id)
    written = lab / "jobs" / record.id / "work" / "model"
    for name in ALL:
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_text(name)
    return record


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_a_job_was_told_to_write_comes(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    entered(tmp_path, lab, "mine/tiny.caffemodel")
    assert cos("fetch") == 0
    out, err = capfd.readouterr()
    assert sorted(out.split()) == [f"{tmp_path}/mine/{name}" for name in WANTED]
    assert files(tmp_path / "mine") == WANTED
    left = "Left there: 2 of its files, which job 1 was not told to write; "
    assert err == f"{left}`cos fetch 1 --cluster lab --to FOLDER` brings all.\n"
    assert cos("fetch", "--to", "all") == 0
    assert files(tmp_path / "all" / "mine") == ALL


@pytest.mark.parametrize(("place", "name"), [("home", "home/"), ("mine/..", ""), (".ssh", "ssh/")])
def test_a_job_does_not_choose_where_its_files_go(place: str, name: str, lab: Path, tmp_path: Path) -> None:
    record = entered(tmp_path, lab, "mine/tiny.caffemodel")
    rewrite(lab, record, results=[{"path": record.results[0].path, "place": str(tmp_path / place)}])
    before = files(tmp_path)
    assert cos("fetch") == 0
    assert files(tmp_path) == before
    assert cos("fetch", "--to", "all") == 0
    assert files(tmp_path) == sorted([*before, *(f"all/{name}{file}" for file in ALL)])


def test_a_job_does_not_pass_for_another(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = entered(tmp_path, lab, "mine/tiny.caffemodel")
    second = entered(tmp_path, lab, "others/tiny.caffemodel")
    told = first.model_dump(mode="json", include={"id", "token"})
    rewrite(lab, second, **told, results=[{"path": second.results[0].path, "place": str(tmp_path / "mine")}])
    assert cos("fetch", "2") == 0
    assert not (tmp_path / "mine").exists()
    assert files(tmp_path / "lab-job-2" / "mine") == ALL
    assert places.kept(second.model_copy(update={"token": f"../places/{second.token}"})) is None


def test_a_job_that_was_asked_for_elsewhere(
    lab: Path, tmp_path: Path, cos_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entered(tmp_path, lab, "mine/tiny.caffemodel")
    shutil.rmtree(cos_home / "places")
    assert cos("fetch", "--json") == 0
    out, err = capfd.readouterr()
    assert sorted(json.loads(out)) == [f"lab-job-1/mine/{name}" for name in ALL]
    assert err == "Job 1 was not asked for from here: what it wrote goes into the folder lab-job-1.\n"
    assert files(tmp_path / "lab-job-1" / "mine") == ALL


def rewrite(lab: Path, record: JobRecord, **changes: object) -> None:
    """What code of the job can do to its record."""
    path = lab / "jobs" / record.id / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def encrypted(sshd: Server, tmp_path: Path, cos_home: Path) -> None:
    """The cluster `lab`, of four nodes, whose key has the passphrase `open sesame`."""
    key = tmp_path / "encrypted"
    shutil.copy(sshd.key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
    cluster = known_cluster(sshd, tmp_path / "node", sys.executable, workers=3)
    save(cluster.model_copy(update={"key_file": str(key)}))


def asked(*arguments: str) -> tuple[str, str]:
    """Run the command on a terminal: what it shows up to the prompt for the passphrase, and after the answer."""
    command = shlex.join([sys.executable, "-m", "bootstrap.cli", *arguments])
    # `script` gives it a terminal, which is where a person is asked.
    terminal = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(terminal, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = b""
        while not before.endswith(b"encrypted: ") and len(before) < 10_000:
            before += process.stdout.read(1)
        after, _ = process.communicate(b"open sesame\n", timeout=60)
    assert process.returncode == 0
    return before.decode(), after.decode()


@pytest.mark.usefixtures("encrypted")
def test_a_passphrase_is_asked_for_once() -> None:
    _, out = asked("run", "--cluster", "lab", "--", "echo", "there")
    assert "Passphrase" not in out
    assert sorted(out.split("\r\n")) == ["", "", "master: there", *(f"worker-{n}: there" for n in range(3))]


@pytest.mark.usefixtures("encrypted")
def test_a_passphrase_is_asked_for_before_a_bar_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before, out = asked("push", "--cluster", "lab", "--nodes", "worker-0", "file", f"{tmp_path}/pushed")
    assert before == f"Passphrase of {tmp_path}/encrypted: "
    assert "pushing file" in out
    assert (tmp_path / "pushed").read_text() == "x"


def test_an_impostor_and_a_node_that_is_away(sshd: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known_cluster(sshd, tmp_path / "node", sys.executable, keys=[other])
    assert cos("jobs", "--cluster", "lab") == 2
    assert "is not the pinned one" in capfd.readouterr().err
    known_cluster(sshd, tmp_path / "node", "/no/such/python")
    assert cos("jobs", "--cluster", "lab") == 2
    assert "master cannot run jobs" in capfd.readouterr().err
