import boto3
import pytest
from moto import mock_aws

from infra import instances
from infra.instances import UnknownTypeError, facts, refresh

SEEN = ["c7i.xlarge", "g6.xlarge", "hpc7a.96xlarge", "p5.48xlarge", "p6-b300.48xlarge", "t3.medium"]


# Figures of AWS's pages: GPUs, their model, GB of NVMe, Gbit/s.
@pytest.mark.parametrize(
    ("name", "gpus", "model", "nvme_gb", "gbps"),
    [
        ("p4d.24xlarge", 8, "A100", 8000, 400),
        ("p5.48xlarge", 8, "H100", 30400, 3200),
        ("g6.xlarge", 1, "L4", 250, 10),
        ("g6e.12xlarge", 4, "L40S", 3800, 100),
        ("hpc7a.96xlarge", 0, "", 0, 300),
    ],
)
def test_facts_of_well_known_types(name: str, gpus: int, model: str, nvme_gb: int, gbps: float) -> None:
    found = facts(name)
    assert (found.gpus, found.gpu_name, found.nvme_gb, found.network_gbps) == (gpus, model, nvme_gb, gbps)


def test_an_unknown_type_names_its_neighbours() -> None:
    with pytest.raises(UnknownTypeError, match=r"p5\.48xlrge is not among .* did you mean p5\.48xlarge"):
        facts("p5.48xlrge")


def test_the_table_tells_its_date_and_source() -> None:
    assert instances.table_date() >= "2026-11-26"
    assert "DescribeInstanceTypes" in instances.table_source()
    assert len(instances.names()) > 1000


@mock_aws
def test_the_script_makes_the_table_that_is_kept(tmp_path, monkeypatch) -> None:
    client = boto3.client("ec2", "us-east-1")
    answer = client.describe_instance_types(InstanceTypes=SEEN)["InstanceTypes"]

    path = tmp_path / "table.json"
    assert refresh.write(answer, "here", path) == len(SEEN)

    kept = {name: facts(name) for name in SEEN}
    monkeypatch.setattr(instances, "TABLE", path)
    facts.cache_clear()
    instances._table.cache_clear()
    try:
        assert instances.names() == SEEN
        assert {name: facts(name) for name in SEEN} == kept, "run `python -m infra.instances.refresh --moto`"
    finally:
        facts.cache_clear()
        instances._table.cache_clear()
