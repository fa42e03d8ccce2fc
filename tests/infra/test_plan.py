import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from infra import picture, presets
from infra.estimate import estimate, offline_lookup
from infra.plan import example, main, show
from tests.infra.plans import plan_of


def shown(preset: str, **values: object) -> str:
    config = example(preset, values)
    text = io.StringIO()
    show(Console(file=text, width=160), config, plan_of(preset, **values), estimate(config, offline_lookup(config)))
    return text.getvalue()


@pytest.mark.parametrize("preset", presets.names())
def test_a_preset_shows_its_network_its_price_and_its_end(preset: str) -> None:
    text = shown(preset)
    assert "public subnet 10.42.0.0/20" in text
    assert "ssh from 203.0.113.7/32 alone" in text
    assert "an hour" in text
    assert "by a schedule outside" in text


def test_the_picture_has_every_interface() -> None:
    text = shown("efa-h100")
    assert "gpu: 64 x p5.48xlarge, on-demand, no public address" in text
    assert "ENA on card 0, 32 EFA-only on card/device 0/1, 1/1, …, 31/1" in text
    assert "cluster placement group" in text
    assert "private subnet 10.42.16.0/20 ── NAT gateway" in text
    assert "$3,524.13 an hour" in text


def test_the_picture_of_an_existing_vpc_without_open_port() -> None:
    values = {"vpc_id": "vpc-1", "subnet_id": "subnet-1", "egress": "existing", "ssh_from": "ssm"}
    text = io.StringIO()
    Console(file=text, width=120).print(picture.network(example("cpu-small", values)))
    assert "VPC vpc-1, which exists" in text.getvalue()
    assert "no open port, sessions by SSM" in text.getvalue()


@pytest.mark.slow
def test_the_command_needs_no_credentials() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [
        sys.executable,
        "-m",
        "infra.plan",
        "gpu-single",
        "ttl=2h",
        "budget_usd=50",
        "budget_email=a@example.org",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "1 x g6.xlarge" in done.stdout
    assert "in 2 h" in done.stdout
    assert "a mail to a@example.org at 80 % of $50 a month" in " ".join(done.stdout.split())


def test_the_command_refuses_in_a_sentence(monkeypatch, capsys) -> None:
    for arguments, told in (
        ([], "Name a preset"),
        (["gpu"], "there are cpu-small"),
        (["cpu-small", "2h"], "KEY=VALUE"),
        (["cpu-small", "ttl=8hours"], "cos:ttl is '8hours': '8hours' is no length of time: write it as 90m, 8h or"),
        (["cpu-small", "ttl=99999999d"], "'99999999d' is more than a year: give less."),
        (["cpu-small", "workers=[{name:"], "has no YAML value"),
    ):
        monkeypatch.setattr(sys, "argv", ["plan", *arguments])
        assert main() == 2
        assert told in capsys.readouterr().err
