from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import pytest
from botocore.exceptions import NoCredentialsError
from moto import mock_aws

from infra import preflight, quotas
from infra.config import ClusterConfig
from infra.preflight import Finding
from tests.infra.plans import config

STANDARD = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"


class Session(boto3.Session):
    """moto's AWS, with quotas: moto keeps none for EC2."""

    limits: ClassVar[dict[str, float]] = {STANDARD: 64, "Running On-Demand P instances": 100}

    def client(self, service_name: str, *arguments: Any, **options: Any) -> Any:
        if service_name != "service-quotas":
            return super().client(service_name, *arguments, **options)
        page = {"Quotas": [{"QuotaName": name, "Value": value} for name, value in self.limits.items()]}
        paginator = SimpleNamespace(paginate=lambda **_: [page])
        return SimpleNamespace(get_paginator=lambda operation: paginator)


@pytest.fixture
def session() -> Iterator[Session]:
    with mock_aws():
        yield Session(region_name="us-east-1")


def image(session: Session) -> str:
    images = session.client("ec2", region_name="us-east-1").describe_images(
        Filters=[{"Name": "architecture", "Values": ["x86_64"]}]
    )["Images"]
    return images[0]["ImageId"]


def findings(session: Session, cluster: ClusterConfig) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in preflight.run(session, cluster):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_a_cluster_that_can_be_launched(session: Session) -> None:
    found = findings(session, config(ami=image(session)))

    assert {finding.level for check in found.values() for finding in check} == {"ok"}, found
    assert list(found) == ["credentials", "zone", "offering", "image", "quota", "price"]
    # 0.1008 for the master, 2 x 0.1785 for the workers, 150 GB, three addresses.
    assert found["price"][0].message.startswith("$0.49 an hour, $1.96 in 4 h")
    assert found["quota"][0].message.startswith("10 of the 64 vCPUs")


def test_without_credentials_nothing_else_is_asked(monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NoCredentialsError

    monkeypatch.setattr(boto3.Session, "client", refuse)
    (finding,) = preflight.run(boto3.Session(), config())
    assert finding.level == "error"
    assert "run `aws configure`" in finding.message


def test_a_zone_that_is_not_there(session: Session) -> None:
    found = findings(session, config(zone="us-east-1z"))
    assert list(found) == ["credentials", "zone"]
    assert "set us-east-1a or us-east-1b" in found["zone"][0].message


def test_a_type_that_the_zone_has_not_got(session: Session, monkeypatch) -> None:
    zones = {"us-east-1a": {"m7i.large", "c7a.xlarge"}, "us-east-1c": {"c7i.xlarge"}}
    monkeypatch.setattr(preflight, "offerings", lambda ec2: zones)
    first, second = findings(session, config(ami=image(session)))["offering"]
    assert first.level == "error"
    assert "set cos:zone to us-east-1c, or take c7a.xlarge" in first.message
    assert second.level == "ok"


def test_offerings_are_read_by_zone(session: Session) -> None:
    zones = preflight.offerings(session.client("ec2", region_name="us-east-1"))
    assert "m5.large" in zones["us-east-1a"]


def test_an_image_that_is_not_there(session: Session) -> None:
    (finding,) = findings(session, config(ami="ami-0123456789abcdef0"))["image"]
    assert finding.level == "error"
    assert "python -m infra.pin STACK --ami" in finding.message


def test_a_quota_that_is_too_small(session: Session) -> None:
    found = findings(session, config("efa-a100", ami=image(session)))
    short = next(finding for finding in found["quota"] if finding.level == "error")
    assert "needs 384 vCPUs of Running On-Demand P instances and 100 of 100 are left" in short.message
    assert "ask Service Quotas for 384" in short.message


def test_what_runs_already_counts(session: Session) -> None:
    ec2 = session.client("ec2", region_name="us-east-1")
    ec2.run_instances(ImageId=image(session), InstanceType="m5.large", MinCount=3, MaxCount=3)
    assert preflight.used_vcpus(ec2, "dev") == {STANDARD: 6}


def test_the_clusters_own_nodes_are_not_counted_twice(session: Session, monkeypatch) -> None:
    """At another `up`, or a `resize` in place of a lost worker."""
    monkeypatch.setattr(Session, "limits", {STANDARD: 16})
    cluster = config(ami=image(session))
    ec2 = session.client("ec2", region_name="us-east-1")
    for owner, count in ((cluster.cluster, 2), (f"{cluster.cluster}-2", 1)):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "cos:cluster", "Value": owner}]}]
        types = {"InstanceType": "c5.xlarge", "MinCount": count, "MaxCount": count}
        ec2.run_instances(ImageId=image(session), TagSpecifications=tags, **types)
    (found,) = findings(session, cluster)["quota"]
    assert (found.level, found.message) == ("ok", f"10 of the 12 vCPUs left of {STANDARD}.")


def test_a_quota_that_is_not_listed_is_a_warning(session: Session) -> None:
    found = findings(session, config("spot-gpu", ami=image(session)))
    assert {finding.level for finding in found["quota"]} == {"ok", "warning"}


def test_a_price_that_is_not_known_is_no_zero(session: Session) -> None:
    (finding,) = findings(session, config("spot-gpu", ami=image(session)))["price"]
    if finding.level == "warning":
        assert "unknown" in finding.message
        assert "g6.xlarge (spot)" in finding.message


@pytest.mark.parametrize(
    ("instance_type", "spot", "name"),
    [
        ("p5.48xlarge", False, "Running On-Demand P instances"),
        ("p5.48xlarge", True, "All P Spot Instance Requests"),
        ("gr6.8xlarge", False, "Running On-Demand G and VT instances"),
        ("hpc7a.96xlarge", False, "Running On-Demand HPC instances"),
        ("m7i.large", False, STANDARD),
        ("inf2.xlarge", False, "Running On-Demand Inf instances"),
        ("im4gn.large", False, STANDARD),
        ("u7i-12tb.224xlarge", False, None),
    ],
)
def test_quota_names(instance_type: str, spot: bool, name: str | None) -> None:
    assert quotas.quota_name(instance_type, spot) == name


def test_reserved_capacity_counts_in_no_quota_again() -> None:
    group = {"name": "gpu", "type": "p5.48xlarge", "count": 2, "efa": True, "reservation": "cr-1"}
    assert set(quotas.wanted_vcpus(config("efa-h100", workers=[group]))) == {STANDARD}
