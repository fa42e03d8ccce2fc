import datetime
import re
from typing import Any

import pytest

from infra import presets
from infra.config import ClusterConfig, keys, load, tag_value
from infra.config_errors import ConfigError
from infra.plan import example

NOW = datetime.datetime(2026, 11, 26, 10, tzinfo=datetime.UTC)
GROUP = {"name": "w", "type": "c7i.xlarge", "count": 2}


def values(**changed: Any) -> dict[str, Any]:
    given = {
        "preset": "cpu-small",
        "cluster": "dev",
        "owner": "ada",
        "ssh_from": "203.0.113.7/32",
        "ssh_public_key": "ssh-ed25519 AAAA ada@laptop",
        "ami": "ami-0123",
        "deadline": "2026-11-26T14:00:00Z",
        "kit": "kit/" + "a" * 64,
    }
    return {key: value for key, value in {**given, **changed}.items() if value != "unset"}


REFUSED = [
    ({"preset": "huge"}, "cos:preset", "cpu-small, efa-a100"),
    ({"owner": "unset"}, "cos:owner is not set", "pulumi config set cos:owner"),
    ({"owner": "CORP\\jane"}, "cos:owner is 'CORP\\\\jane': AWS takes letters, numbers", "cos:owner YOU"),
    ({"owner": "O'Brien (ML)"}, "cos:owner", "cos:owner YOU"),
    ({"cluster": "My_Cluster"}, "cos:cluster is 'My_Cluster'", "a-z, 0-9 and -"),
    ({"region": "mars"}, "cos:region is 'mars'", "us-east-1"),
    ({"region": "cn-north-1", "zone": "cn-north-1a"}, "cos:region is 'cn-north-1': it is in a part", "us-east-1"),
    ({"region": "us-gov-west-1"}, "cos:region is 'us-gov-west-1'", "us-east-1"),
    ({"region": "us-iso-east-1"}, "cos:region is 'us-iso-east-1'", "us-east-1"),
    ({"zone": "eu-west-1a"}, "cos:zone eu-west-1a", "set a zone of that region"),
    ({"ttl": "eight hours"}, "cos:ttl is 'eight hours'", "cos:ttl 8h"),
    ({"ttl": "5m"}, "cos:ttl is 5m", "10m to 30d"),
    ({"ttl": "31d"}, "cos:ttl is 31d", "10m to 30d"),
    ({"deadline": "unset"}, "cos:deadline is not set", "python -m infra.pin STACK"),
    ({"deadline": "2026-11-26T14:00:00"}, "cos:deadline", "with its zone"),
    ({"deadline": "2026-11-26T09:00:00Z"}, "cos:deadline 2026-11-26T09:00:00Z is past", "--deadline"),
    ({"idle": "9h"}, "cos:idle 9h is longer than cos:ttl 4h", "0m for never"),
    ({"budget_usd": "10"}, "cos:budget_email is not set", "both"),
    ({"budget_email": "a@example.org"}, "cos:budget_usd is not set", "both"),
    ({"budget_usd": "-1", "budget_email": "a@example.org"}, "cos:budget_usd is '-1'", "US dollars"),
    ({"ssh_from": "0.0.0.0/0"}, "cos:ssh_from", "your address with /32"),
    ({"ssh_from": "203.0.113.0/24"}, "lets 256 addresses in", "your address with /32"),
    ({"ssh_from": "home"}, "'home' is no IPv4 address", "your address with /32"),
    ({"ssh_public_key": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "cos:ssh_public_key", "id_ed25519.pub"),
    ({"ssh_public_key": "ecdsa-sha2-nistp256 AAAA ada"}, "cos:ssh_public_key", "id_ed25519.pub"),
    ({"ami": "unset"}, "cos:ami is not set", "python -m infra.pin STACK"),
    ({"ami": "ubuntu"}, "cos:ami is 'ubuntu'", "python -m infra.pin STACK"),
    ({"ami_parameter": "/my/own"}, "cos:ami_parameter is '/my/own'", "/aws/service/"),
    ({"kit": "unset"}, "cos:kit_dir is not set", "folder of the kit"),
    ({"kit_dir": "build/kit"}, "cos:kit_dir and cos:kit are both set", "not both"),
    ({"kit": "kit/latest"}, "cos:kit is 'kit/latest'", "cos:kit_dir"),
    ({"bucket": "No Bucket"}, "cos:bucket is 'No Bucket'", "name a bucket"),
    ({"keep_bucket": "maybe"}, "cos:keep_bucket is 'maybe'", "true or false"),
    ({"egress": "pigeon"}, "cos:egress is 'pigeon'", "public-ip, nat, endpoints or existing"),
    ({"egress": "existing"}, "cos:egress is existing", "public-ip, nat or endpoints"),
    ({"vpc_cidr": "8.8.0.0/16"}, "cos:vpc_cidr is '8.8.0.0/16'", "10.42.0.0/16"),
    ({"vpc_cidr": "10.0.0.0/8"}, "cos:vpc_cidr is '10.0.0.0/8'", "10.42.0.0/16"),
    ({"vpc_id": "vpc-1"}, "cos:subnet_id is not set", "subnet for the workers"),
    ({"subnet_id": "subnet-1"}, "cos:vpc_id is not set", "name the VPC"),
    ({"vpc_id": "vpc-1", "subnet_id": "subnet-1", "egress": "nat"}, "cos:egress is nat", "existing or public-ip"),
    ({"master": {"type": "m7i.huge"}}, "cos:master.type m7i.huge is not among", "did you mean m7i."),
    ({"master": {"disk_gb": 1}}, "cos:master.disk_gb is 1", "8 to 16384"),
    ({"master": {"market": "spot"}}, "cos:master.market is no key", "remove it"),
    (
        {"workers": "unset", "preset": "unset", "region": "us-east-1", "zone": "us-east-1a"},
        "cos:workers is not set",
        "list of groups",
    ),
    ({"workers": [{**GROUP, "count": 0}]}, "cos:workers[0].count is 0", "1 to 512"),
    ({"workers": [{**GROUP, "coutn": 2}]}, "cos:workers[0].coutn is no key", "did you mean count?"),
    ({"workers": [GROUP, GROUP]}, "two groups named w", "its own name"),
    (
        {"cluster": "c" * 30, "workers": [{**GROUP, "name": "g" * 24, "count": 11}]},
        "cos:workers[0].name gggggggggggggggggggggggg is too long beside cos:cluster cccc",
        "by 2 characters",
    ),
    ({"workers": [{**GROUP, "type": "g6.huge"}]}, "cos:workers[0].type g6.huge", "did you mean g6"),
    ({"workers": [{**GROUP, "type": "c7g.xlarge"}]}, "is arm64", "x86_64 type"),
    ({"workers": [{**GROUP, "market": "lottery"}]}, "cos:workers[0].market is 'lottery'", "on-demand, spot"),
    ({"workers": [{**GROUP, "market": "capacity-block"}]}, "cos:workers[0].market", "on-demand or spot only"),
    ({"workers": [{**GROUP, "type": "hpc7a.96xlarge", "market": "spot"}]}, "cos:workers[0].market", "on-demand only"),
    (
        {"workers": [{**GROUP, "type": "p5.48xlarge", "market": "capacity-block"}]},
        "cos:workers[0].reservation is not set",
        "buy the capacity block first",
    ),
    (
        {"workers": [{**GROUP, "market": "spot", "reservation": "cr-1"}]},
        "cos:workers[0].reservation",
        "remove the reservation",
    ),
    ({"workers": [{**GROUP, "reservation": "my-block"}]}, "cos:workers[0].reservation is 'my-block'", "cr-0123456789"),
    ({"workers": [{**GROUP, "efa": True}]}, "c7i.xlarge takes no EFA", "larger size"),
    (
        {"workers": [{**GROUP, "type": "p5.48xlarge", "efa": True}]},
        "cos:egress is public-ip, and each of cos:workers[0] has 33 network interfaces",
        "nat or endpoints",
    ),
    ({"rgion": "us-east-1"}, "cos:rgion is no key", "did you mean region?"),
]


@pytest.mark.parametrize(("changed", "problem", "remedy"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_refusal_names_the_key_and_the_remedy(changed: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(values(**changed), NOW)

    text = str(caught.value)
    assert problem in text
    assert remedy in text
    assert len(text.splitlines()) == 1
    assert re.search(r"[.?]$", text)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(values(owner="unset", ami="unset", ttl="soon"), NOW)

    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["cos:owner", "cos:ttl", "cos:ami"]


@pytest.mark.parametrize("preset", presets.names())
def test_presets_are_right(preset: str) -> None:
    assert example(preset).preset == preset


def test_what_aws_takes_is_taken() -> None:
    config = load(values(ssh_from="203.0.113.7", owner="Renée (ML)".translate({40: "@", 41: "@"})), NOW)
    assert config.ssh_from == "203.0.113.7/32"
    assert config.owner == "Renée @ML@"
    longest = load(values(cluster="c" * 30, workers=[{**GROUP, "name": "g" * 23, "count": 10}]), NOW)
    assert len(f"{longest.cluster}-{longest.workers[0].name}-9-1234567") == 64
    assert tag_value("CORP\\jane") == "CORP-jane"


def test_a_key_of_ones_own_wins_over_the_preset_and_an_empty_one_does_not() -> None:
    config = load(values(ttl="2h30m", zone="", workers=[]), NOW)

    assert config.ttl_minutes == 150
    assert config.zone == "us-east-1a"
    assert config.workers[0].type == "c7i.xlarge"


def test_texts_as_pulumi_hands_them_over_are_taken() -> None:
    config = load(values(keep_bucket="false", budget_usd="250", budget_email="ada@example.org"), NOW)

    assert not config.keep_bucket
    assert config.budget_usd == 250


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_each_key_says_what_it_is_and_how_it_is_mended(key: str) -> None:
    field = dict(keys())[key]

    assert field.description
    assert field.json_schema_extra["remedy"]


def test_the_cluster_has_a_default_for_all_that_its_user_need_not_know() -> None:
    required = {name for name, field in ClusterConfig.model_fields.items() if field.is_required()}
    asked = {"cluster", "owner", "region", "zone", "deadline", "ssh_from", "ssh_public_key", "ami", "workers"}
    assert required == asked
