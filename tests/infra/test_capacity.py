import pytest

from infra import capacity
from infra.instances import facts


@pytest.mark.parametrize(
    ("wanted", "instead"),
    [("p5.48xlarge", "p5e.48xlarge"), ("g6.xlarge", "g6.2xlarge"), ("p4d.24xlarge", "p4de.24xlarge")],
)
def test_the_nearest_types_come_first(wanted: str, instead: str) -> None:
    assert instead in capacity.alternatives(wanted)[:3]


def test_an_alternative_is_no_less() -> None:
    for name in capacity.alternatives("p5.48xlarge"):
        assert facts(name).gpu_memory_mib >= facts("p5.48xlarge").gpu_memory_mib
        assert facts(name).efa_interfaces


def test_advice_names_the_next_zone_and_the_next_type() -> None:
    zones = {"us-east-1a": ["g6.2xlarge"], "us-east-1b": ["g6.xlarge"], "us-east-1c": ["g6.xlarge"]}
    told = capacity.advice("g6.xlarge", "us-east-1a", zones)
    assert told == (
        "EC2 has no g6.xlarge to give in us-east-1a now: set cos:zone to us-east-1b, or take g6.2xlarge, which "
        "us-east-1a offers."
    )


def test_advice_where_nothing_is_left() -> None:
    told = capacity.advice("p5.48xlarge", "us-east-1a", {"us-east-1a": ["m7i.large"]})
    assert "choose another cos:region, or reserve capacity" in told


def test_capacity_errors_are_told_from_others() -> None:
    assert capacity.is_capacity_error("api error InsufficientInstanceCapacity: We currently do not have sufficient")
    assert not capacity.is_capacity_error("api error UnauthorizedOperation: You are not authorized")
