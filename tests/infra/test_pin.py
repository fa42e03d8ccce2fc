import datetime
import socket
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws

from infra import pin
from infra.config import load
from infra.config_errors import ConfigError

NOW = datetime.datetime(2099, 1, 1, 10, tzinfo=datetime.UTC)
PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA ada@laptop\n")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(pin, "address", lambda: "203.0.113.9")
    return tmp_path


@mock_aws
def test_what_is_missing_is_found_and_what_is_set_stays(home: Path) -> None:
    given = {"preset": "cpu-small", "ami_parameter": PARAMETER, "owner": "ada", "ttl": "2h"}
    values = pin.pinned(given, boto3.Session(), NOW, lambda: "203.0.113.9")

    assert values["owner"] == "ada"
    assert values["ssh_from"] == "203.0.113.9/32"
    assert values["ssh_public_key"] == "ssh-ed25519 AAAA ada@laptop"
    assert values["ami"].startswith("ami-")
    assert values["deadline"] == "2099-01-01T12:00:00Z"
    load({**values, "cluster": "dev", "kit": "kit/" + "a" * 64}, NOW)


@mock_aws
def test_a_second_time_changes_nothing_but_what_is_asked(home: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(f"encryptionsalt: v1:abc\nconfig:\n  aws:profile: mine\n  cos:ami_parameter: {PARAMETER}\n")
    pin.pin(path, [], "cpu-small", boto3.Session())
    first = yaml.safe_load(path.read_text())
    assert first["encryptionsalt"] == "v1:abc"
    assert first["config"]["aws:profile"] == "mine"

    monkeypatch.setattr(pin, "image", lambda *_: "ami-0ed")
    assert pin.pin(path, [], None, boto3.Session()) == {}
    assert pin.pin(path, ["ami"], None, boto3.Session()) == {"ami": "ami-0ed"}
    assert yaml.safe_load(path.read_text())["config"] == {**first["config"], "cos:ami": "ami-0ed"}


@mock_aws
def test_an_image_that_cannot_be_found_is_told(home: Path) -> None:
    with pytest.raises(ConfigError, match="cos:ami could not be read from /aws/service/none .* or set cos:ami"):
        pin.pinned({"preset": "cpu-small", "ami_parameter": "/aws/service/none"}, boto3.Session(), NOW, lambda: "")


def test_an_address_that_is_not_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(pin, "_ADDRESS_SERVICE", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(pin, "_ADDRESS_SECONDS", 0.1)
        with pytest.raises(ConfigError, match=r"cos:ssh_from could not be found at .* \(timed out\): set your address"):
            pin.address()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("config:\n  cos:ttl: 8h\n cos:idle: 1h\n", "is no YAML .*line 3"),
        ("config: cos:ttl=8h\n", "has no keys below `config:`"),
        ("- cos:ttl: 8h\n", "has no keys below `config:`"),
    ],
)
def test_a_slip_in_the_file_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"Pulumi.dev.yaml {told}"):
        pin.read(path)


def test_a_key_of_a_kind_that_ec2_does_not_take_is_none(tmp_path: Path) -> None:
    (tmp_path / "id_ecdsa.pub").write_text("ecdsa-sha2-nistp256 AAAA")
    (tmp_path / "id_rsa.pub").write_text("ssh-rsa AAAA\n")
    assert pin.public_key(tmp_path) == "ssh-rsa AAAA"


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cos:ssh_public_key is not set and .* run `ssh-keygen`"):
        pin.public_key(tmp_path)
