"""What a person gets wrong is told in a sentence, before anything is asked of AWS."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from bootstrap.cluster import Cluster, NodeFacts, save
from bootstrap.clusters import config, engine
from tests.fixtures.command import cos
from tests.fixtures.sshd import free_port

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPC4RzIyRJkkCEgZH7IMYFR2cJ6WdWMBcZ2Cqy3pNg0t tests"

pytestmark = pytest.mark.usefixtures("cos_home")


@pytest.fixture
def dev(cos_home: Path, tmp_path: Path) -> Path:
    (tmp_path / "key.pub").write_text(KEY)
    options = ["--preset", "cpu-small", "--ssh-from", "203.0.113.7/32", "--ssh-key", str(tmp_path / "key.pub")]
    assert cos("init", "-c", "dev", *options, "--quiet") == 0
    return config.path("dev")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up"], "The local cluster comes and goes with its jobs"),
        (["up", "-c", "mars"], "There is no configuration of a cluster 'mars' here: choose from dev, or make it by"),
        (["status", "-c", "mars"], "There is no configuration of a cluster 'mars' here"),
        (["init", "-c", "dev", "--preset", "cpu-small", "--ssh-from", "ssm", "--ssh-key", "key.pub"], "is taken by"),
        (["init", "-c", "two"], "--preset is missing: give it."),
        (["init", "-c", "two", "--preset", "gpu"], "cos:preset is 'gpu': there are cpu-small"),
        (["init", "-c", "two", "--preset", "cpu-small", "--alarm", "a@b.c"], "A budget needs both the sum and whom"),
        (["init", "-c", "two", "--preset", "cpu-small", "--set", "ttl"], "ttl is no KEY=VALUE"),
        (["init", "-c", "two", "--preset", "cpu-small", "--ssh-key", "no"], "The public key no cannot be read"),
        (
            ["init", "-c", "two", "--preset", "cpu-small", "--ttl=8hours", "--ssh-from=ssm", "--ssh-key=key.pub"],
            "cos:ttl is '8hours': '8hours' is no length of time: write it as 90m, 8h or 1d12h.",
        ),
        (["init", "-c", "two", "--preset", "cpu-small", "--set", "workers=[{name:"], "has no YAML value"),
        (["down", "-c", "dev", "--save", "90"], "'90' is no length of time: write it as 90m, 8h or 1d12h."),
        (["extend", "99999999d", "-c", "dev"], "'99999999d' is more than a year: give less."),
        (["extend", "soon", "-c", "dev"], "'soon' is no length of time: write it as 90m, 8h or 1d12h."),
        (["resize", "gpu", "3", "-c", "dev"], "dev has no group of workers 'gpu': choose from cpu."),
        (["sweep", "--remove"], "--remove ends one cluster"),
    ],
)
@pytest.mark.usefixtures("dev")
def test_a_mistake(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert cos(*arguments) == 2
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_configuration_of_an_older_version(dev: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dev.write_text(dev.read_text() + "  cos:worker_count: 3\n")
    assert cos("plan", "-c", "dev") == 2
    assert "cos:worker_count is no key of the configuration" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  cos:ttl: 8hours", "cos:ttl is '8hours': '8hours' is no length of time: write it as 90m, 8h or 1d12h."),
        (" cos:ttl: 8h", "Pulumi.dev.yaml is no YAML"),
    ],
)
def test_a_slip_in_the_configuration(line: str, said: str, dev: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dev.write_text(f"{dev.read_text()}{line}\n")
    for verb in (["plan"], ["up", "--yes"]):
        assert cos(*verb, "-c", "dev") == 2
        assert said in capfd.readouterr().err


def test_without_credentials(dev: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert cos("plan", "-c", "dev") == 0
    assert "$0.49 an hour" in capfd.readouterr().out
    for verb in (["up", "--yes"], ["down", "--yes"], ["status"], ["cost"]):
        assert cos(*verb, "-c", "dev") == 2
        assert "There are no credentials of AWS: run `aws configure` or `aws sso login`." in capfd.readouterr().err


def test_the_owner_is_found_as_iam_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "CORP\\jane")
    (tmp_path / "key.pub").write_text(KEY)
    options = ["--preset", "cpu-small", "--ssh-from", "203.0.113.7", "--ssh-key", str(tmp_path / "key.pub")]
    assert cos("init", "-c", "dev", *options, "--quiet") == 0
    assert config.read("dev")["owner"] == "CORP-jane"


@pytest.mark.parametrize("region", ["us-west-9", "cn-north-1", "us-gov-west-1"])
def test_a_region_that_is_not_known(dev: Path, region: str, capfd: pytest.CaptureFixture[str]) -> None:
    config.change("dev", region=region, zone=f"{region}a")
    assert cos("status", "-c", "dev") == 2
    assert f"COS knows no region '{region}' of AWS: choose from" in capfd.readouterr().err


@pytest.mark.usefixtures("dev")
def test_no_pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "_BUILT", tmp_path)
    assert cos("up", "-c", "dev", "--yes") == 2
    assert "There is no `pulumi` on PATH" in capfd.readouterr().err


@pytest.mark.usefixtures("dev")
def test_two_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with engine.alone("dev"):
        assert cos("start", "-c", "dev") == 2
    assert "works on dev: wait until it is done." in capfd.readouterr().err


@pytest.fixture
def moto_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A moto in a process of its own, so that its work is not counted as the launcher's."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 60
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield
        server.terminate()


@pytest.mark.slow
@pytest.mark.usefixtures("moto_elsewhere")
def test_the_state_of_64_nodes(dev: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = boto3.Session(region_name="us-east-1")
    ec2, s3 = session.client("ec2"), session.client("s3")
    s3.create_bucket(Bucket="dev-data-1")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    nodes = []
    for index in range(65):
        name, group = (f"dev-cpu-{index - 1}", "cpu") if index else ("dev-master", "master")
        tags = {"cos:cluster": "dev", "cos:role": "worker" if index else "master", "cos:group": group, "Name": name}
        specification = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
        made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specification)["Instances"][0]
        s3.put_object(Bucket="dev-data-1", Key=f"nodes/{made['InstanceId']}/status.json", Body=b'{"state": "ready"}')
        found = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"][0]["Instances"][0]
        nodes.append(
            NodeFacts(
                id=made["InstanceId"], role=tags["cos:role"], group=group, private_ip=made["PrivateIpAddress"],
                public_ip=found.get("PublicIpAddress"),
            )  # type: ignore[arg-type]
        )  # fmt: skip
    save(
        Cluster(
            cluster="dev", region="us-east-1", bucket="dev-data-1", ssh_user="u", master=nodes[0],
            workers=tuple(nodes[1:]),
        )
    )  # fmt: skip
    assert cos("status", "-c", "dev", "--json") == 0
    out = capfd.readouterr().out
    told = json.loads(out)
    assert [node["readiness"] for node in told["nodes"]] == ["ready"] * 65
