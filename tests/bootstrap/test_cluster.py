import json
import os
from pathlib import Path

import pytest

from bootstrap import cluster
from bootstrap.errors import LaunchError
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from tests.fixtures.sshd import Server

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJYlyAzp6AMJ1fgFmAjNjKVkVPpA7U2dOHVcQF0Xw4yb"
# As infra exports it, with more than the launcher needs.
OUTPUTS = {
    "cluster": "big", "region": "us-east-2", "zone": "us-east-2a", "owner": "me", "deadline": "2026-11-26T18:00:00Z",
    "bucket": "b", "ssh_user": "ubuntu", "ssh_via": "public", "spark_secret": "arn:x",
    "master": {"id": "i-0", "role": "master", "group": "master", "instance_type": "m7i.large", "spot": False,
               "private_ip": "10.0.0.5", "public_ip": "3.1.2.3", "hourly_usd": 0.1},
    "workers": [{"id": "i-1", "role": "worker", "group": "gpu", "instance_type": "g6.xlarge", "spot": True,
                 "private_ip": "10.0.0.6", "public_ip": None, "hourly_usd": None}],
}  # fmt: skip


def test_what_the_stack_exports_becomes_addresses(cos_home: Path) -> None:
    made = cluster.Cluster.model_validate({**OUTPUTS, "host_keys": {"i-0": [KEY]}, "key_file": "~/.ssh/id"})
    assert cluster.save(made) == cos_home / "clusters" / "big.json"
    assert cluster.names() == ["big"]
    loaded = cluster.load("big")
    assert loaded == made
    master, worker = loaded.addresses()
    assert (master.host, master.jump, str(master.host_keys[0])) == ("3.1.2.3", None, KEY)
    assert master.key_file == Path("~/.ssh/id").expanduser()
    assert (worker.name, worker.host, worker.jump, worker.host_keys) == ("worker-0", "10.0.0.6", master, ())
    assert loaded.target.master == "spark://10.0.0.5:7077"
    assert loaded.target.properties_file == "/etc/cos/spark/spark-defaults.conf"


def test_without_a_public_address_a_session_leads_to_the_master() -> None:
    facts = {**OUTPUTS, "ssh_via": "ssm", "master": {**OUTPUTS["master"], "public_ip": None}}  # type: ignore[dict-item]
    master, worker = cluster.Cluster.model_validate(facts).addresses()
    assert (master.host, worker.jump, worker.proxy) == ("i-0", master, ())
    assert master.proxy[:3] == ("aws", "ssm", "start-session")
    assert "i-0" in master.proxy


def test_a_command_leads_to_a_node(sshd: Server) -> None:
    """As `aws ssm start-session` does: here it is the server itself, on the command's stdin and stdout."""
    inetd = ("/usr/sbin/sshd", "-i", "-f", str(sshd.folder / "config"))
    with Connection(sshd.address(host="i-0", port=22, proxy=inetd)) as connection:
        assert SshHost(connection).run(["echo", "through"]).output == b"through\n"
    missing = Connection(sshd.address(proxy=("no-such-program",)))
    with pytest.raises(LaunchError, match="`no-such-program`, the way to master .* cannot be run"):
        missing.transport()


def test_facts_of_another_version(cos_home: Path) -> None:
    path = cos_home / "clusters" / "old.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**OUTPUTS, "ssh_via": "carrier pigeon"}))
    with pytest.raises(LaunchError, match=r"old.json is of another version of cos \(ssh_via: .*--cluster old`"):
        cluster.load("old")
    path.write_text("{")
    with pytest.raises(LaunchError, match="is of another version of cos"):
        cluster.load("old")
    with pytest.raises(LaunchError, match="There is no cluster 'new' here: choose from old, local"):
        cluster.load("new")
    assert os.listdir(path.parent) == ["old.json"]
