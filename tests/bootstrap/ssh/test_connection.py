import getpass
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.errors import LaunchError
from bootstrap.host import ConnectionLostError
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from bootstrap.ssh.keys import load_key
from bootstrap.ssh.parallel import on_all
from tests.fixtures.sshd import Limits, Server, Wire, make_key

# What `aws ssm start-session` is: a way to a port, by stdin and stdout. Where the file is, its network is off.
WAY = """
import os, socket, sys, threading
if os.path.exists(sys.argv[2]):
    sys.exit("\\nCould not connect to the endpoint URL\\n")
plug = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while piece := os.read(0, 65536):
        plug.sendall(piece)
    plug.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
os.write(2, b"a word on stderr\\n" * 10_000)
while piece := plug.recv(65536):
    os.write(1, piece)
"""


@pytest.fixture
def host(sshd: Server) -> Iterator[SshHost]:
    made = SshHost(Connection(sshd.address()))
    yield made
    made.close()


def refusal(sshd: Server, **changes: object) -> str:
    """What a person is told where the login fails."""
    with Connection(sshd.address(**changes)) as connection, pytest.raises(LaunchError) as error:
        connection.transport()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_command(host: SshHost) -> None:
    finished = host.run(["sh", "-c", "cat; echo 'it went' wrong >&2; exit 3"], given=b"to it")
    assert (finished.code, finished.output, finished.errors) == (3, b"to it", b"it went wrong\n")


def test_much_on_both_streams_at_once(host: SshHost) -> None:
    size = 5_000_000
    script = f"head -c {size} /dev/zero >&2; head -c {size} /dev/zero; wc -c"
    finished = host.run(["sh", "-c", script], given=bytes(size))
    assert (len(finished.errors), finished.output[size:].strip()) == (size, str(size).encode())


def test_one_connection_serves_all(sshd: Server, host: SshHost) -> None:
    pids = {host.run(["sh", "-c", "echo $PPID"]).output for _ in range(3)}
    threads = [threading.Thread(target=lambda: pids.add(host.run(["sh", "-c", "echo $PPID"]).output)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 1, "each command would be a child of an sshd of its own"


def test_a_command_has_a_limit(host: SshHost) -> None:
    with pytest.raises(LaunchError, match=r"`sleep 30` on master did not end within the command limit of 0\.3 s"):
        host.run(["sleep", "30"], seconds=0.3)


def test_a_break_that_paramiko_has_not_seen_yet(sshd: Server, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(50_000_000))
    with Connection(sshd.address()) as connection:
        pieces = SshHost(connection).files.stream(str(tmp_path / "large"), 0)
        next(iter(pieces))
        sock = connection.transport().sock
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_WR)  # what comes still comes, so its reader stays
        with pytest.raises(ConnectionLostError):
            list(pieces)


def test_a_changed_host_key_is_refused(sshd: Server, tmp_path: Path) -> None:
    other = type(sshd.host_key).parse(make_key(tmp_path / "other").with_suffix(".pub").read_text())
    assert "is not the pinned one" in refusal(sshd, host_keys=(other,))


def test_a_host_key_is_never_learnt(sshd: Server, tmp_path: Path) -> None:
    assert "No host key of master" in refusal(sshd, host_keys=())
    other = type(sshd.host_key).parse(make_key(tmp_path / "other", kind="ecdsa").with_suffix(".pub").read_text())
    assert "is not the pinned one" in refusal(sshd, host_keys=(other,))


def test_a_key_that_is_not_let_in(sshd: Server, tmp_path: Path) -> None:
    key = make_key(tmp_path / "mine")
    sentence = refusal(sshd, key_file=key)
    assert f"does not take the key {key} for {getpass.getuser()}" in sentence


def test_a_key_that_others_can_read(sshd: Server, tmp_path: Path) -> None:
    key = make_key(tmp_path / "mine")
    key.chmod(0o644)
    assert refusal(sshd, key_file=key).endswith(f"(mode 0644): run `chmod 600 {key}`.")


def test_keys_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="No such file"):
        load_key(tmp_path / "missing")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(LaunchError, match="is no private key that ssh knows"):
        load_key(tmp_path / "text")


def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = make_key(tmp_path / "mine", passphrase="open sesame")
    with pytest.raises(LaunchError, match=f"is encrypted: run `ssh-add {key}` first"):
        load_key(key)
    with pytest.raises(LaunchError, match="That is not the passphrase of the key"):
        load_key(key, lambda _: "open barley")
    public = load_key(key, lambda _: "open sesame")
    assert public is not None
    assert public.get_base64() == key.with_suffix(".pub").read_text().split()[1]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent of our own."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it tells its socket once it is there
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield
    process.terminate()
    process.communicate(timeout=10)


@pytest.mark.usefixtures("agent")
def test_the_agent_logs_in(sshd: Server) -> None:
    assert "There is no key to log in to master" in refusal(sshd, key_file=None)
    subprocess.run(["ssh-add", "-q", sshd.key], check=True, capture_output=True)
    with Connection(sshd.address(key_file=None)) as connection:
        assert connection.transport().is_authenticated()


def test_nobody_listens(sshd: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert "cannot be reached (Connection refused)" in refusal(sshd, port=port)


def test_the_limits_are_named(sshd: Server) -> None:
    limits = Limits(connect=0.3, auth=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "auth limit of 0.3 s" in refusal(sshd, port=silent.getsockname()[1], limits=limits)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        assert "connect limit of 0.3 s" in refusal(sshd, port=full.getsockname()[1], limits=limits)
        for one in waiting:
            one.close()


def test_a_broken_connection_is_made_again(sshd: Server, wire: Wire) -> None:
    with Connection(sshd.address(port=wire.port)) as connection:
        host = SshHost(connection)
        timer = threading.Timer(0.3, wire.cut)
        timer.start()
        with pytest.raises(ConnectionLostError, match=r"The connection to master .* broke"):
            host.run(["sleep", "30"])
        timer.join()
        assert host.run(["echo", "again"]).output == b"again\n"


def test_a_connection_on_which_nobody_answers_is_made_again(sshd: Server) -> None:
    with Connection(sshd.address(limits=Limits(connect=0.5))) as connection:
        host = SshHost(connection)
        sshds = int(host.run(["sh", "-c", "echo $PPID"]).output)
        os.kill(sshds, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLostError, match="The connection to master"):
                host.run(["true"])
            assert host.run(["echo", "again"]).output == b"again\n"
        finally:
            os.kill(sshds, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_what_goes_unacknowledged_ends_the_connection(sshd: Server) -> None:
    with Connection(sshd.address(limits=Limits(unanswered=7.5))) as connection:
        plug = connection.transport().sock
        assert isinstance(plug, socket.socket)
        assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500


def test_through_the_master(sshd: Server) -> None:
    worker = sshd.address("worker-0", jump=sshd.address(), host="127.0.0.1")
    with Connection(worker) as connection:
        client = SshHost(connection).run(["sh", "-c", "echo $SSH_CONNECTION"]).output.split()
        there = SshHost(Connection(sshd.address())).run(["sh", "-c", "echo $SSH_CONNECTION"]).output.split()
    assert client[2:] == there[2:]
    other = type(sshd.host_key)("ssh-ed25519", sshd.host_key.text[:-4] + "AAAA")
    assert "The host key of worker-0" in refusal(sshd, jump=sshd.address(), host_keys=(other,)).replace(
        "master", "worker-0"
    )


def test_a_node_behind_the_master_that_is_away(sshd: Server) -> None:
    away = refusal(sshd, name="worker-0", port=1, jump=sshd.address())
    assert away == "worker-0 (127.0.0.1:1) cannot be reached from master: is it running?"
    nobody = refusal(sshd, name="worker-0", jump=sshd.address(port=1))
    assert nobody == "master (127.0.0.1:1) cannot be reached (Connection refused): is it running?"


def test_the_way_through_the_master_breaks(sshd: Server) -> None:
    """What is closed then cannot say so to the other end, which is nobody's error."""
    worker = sshd.address("worker-0", jump=sshd.address(), host="127.0.0.1")
    with Connection(worker) as connection:
        host = SshHost(connection)
        assert host.run(["echo", "there"]).output == b"there\n"
        assert connection._jump is not None
        connection._jump.transport().packetizer.close()  # paramiko sees that it is broken a moment later
        connection.close()
        assert host.run(["echo", "again"]).output == b"again\n"


def test_a_command_is_the_way(sshd: Server, tmp_path: Path) -> None:
    with Connection(sshd.address(port=1, proxy=(sys.executable, "-c", WAY, str(sshd.port), f"{tmp_path}/off"))) as lost:
        host = SshHost(lost)
        assert host.run(["cat"], given=bytes(1_000_000)).output == bytes(1_000_000)
        (tmp_path / "off").touch()
        lost.transport().sock.process.kill()  # type: ignore[union-attr]  # paramiko's stubs know of no commands
        with pytest.raises(ConnectionLostError, match="broke"):
            host.run(["sleep", "30"])
        sentence = r"ended before the login \(Could not connect to the endpoint URL\): mend that, then try again"
        with pytest.raises(ConnectionLostError, match=sentence):
            host.run(["true"])
        (tmp_path / "off").unlink()
        assert host.run(["echo", "again"]).output == b"again\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "\nSessionManagerPlugin is not found. See http://docs.aws.amazon.com/console\n",
            "(SessionManagerPlugin is not found. See http://docs.aws.amazon.com/console): "
            "install session-manager-plugin.",
        ),
        ("warning\nTargetNotConnected: i-0 is not connected.\n\n", "(TargetNotConnected: i-0 is not connected): mend"),
    ],
)
def test_a_command_that_does_not_lead_there_tells_why(said: str, told: str, sshd: Server) -> None:
    limits = Limits(auth=30.0)
    begun, busy = time.monotonic(), time.process_time()
    way = ("sh", "-c", 'sleep 1; printf "$0" >&2; exit 255', said)
    with Connection(sshd.address(proxy=way, limits=limits)) as connection, pytest.raises(LaunchError) as error:
        connection.transport()
    assert not isinstance(error.value, ConnectionLostError), "it would be tried again"
    assert f"`sh`, the way to master (127.0.0.1:{sshd.port}), ended before the login {told}" in str(error.value)
    assert time.monotonic() - begun < limits.auth / 2
    assert time.process_time() - busy < 0.9, "who waits is idle"


def test_all_nodes_at_once_and_one_is_away(sshd: Server) -> None:
    nodes = [sshd.address(f"worker-{index}") for index in range(4)]
    nodes.append(sshd.address("worker-4", port=1))

    def hostname(node: object) -> bytes:
        with Connection(node) as connection:  # type: ignore[arg-type]
            return SshHost(connection).run(["echo", connection.address.name]).output.strip()

    results = {node.name: result for node, result in on_all(nodes, hostname, limit=2)}
    assert len(results) == 5
    assert results["worker-3"] == b"worker-3"
    assert isinstance(results["worker-4"], ConnectionLostError)


def test_more_nodes_at_once_than_the_masters_sshd_takes_logins(sshd: Server) -> None:
    """It takes ten; the eleventh that comes meanwhile it turns away."""

    def hostname(index: int) -> bytes:
        with Connection(sshd.address(f"worker-{index}")) as connection:
            return SshHost(connection).run(["echo", "there"]).output

    assert [result for _, result in on_all(range(24), hostname)] == [b"there\n"] * 24


def test_a_program_ends_with_its_block(sshd: Server, tmp_path: Path) -> None:
    with Connection(sshd.address()) as connection:
        host = SshHost(connection, [sys.executable])
        with host.start(["sh", "-c", f"echo $$ > {tmp_path}/pid; echo ready; sleep 600"]) as process:
            assert next(process.lines()) == b"ready"
            pid = int((tmp_path / "pid").read_text())
            os.kill(pid, 0)
        gone = f"while kill -0 {pid} 2>/dev/null; do sleep 0.05; done"
        assert host.run(["sh", "-c", gone]).code == 0
