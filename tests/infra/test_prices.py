import json
from types import SimpleNamespace
from typing import Any

import pytest

from infra import prices
from infra.estimate import estimate, live_lookup, offline_lookup
from infra.instances import names
from tests.infra.plans import config


def product(usd: str) -> str:
    terms = {"OnDemand": {"a": {"priceDimensions": {"b": {"pricePerUnit": {"USD": usd}}}}}}
    return json.dumps({"product": {}, "terms": terms})


class Pricing:
    """The Price List API and the spot history, as botocore answers for them."""

    def __init__(self, *usd: str) -> None:
        self.usd = usd
        self.asked: dict[str, str] = {}

    def client(self, service: str, region_name: str) -> Any:
        if service == "pricing":
            return SimpleNamespace(get_products=self._products)
        return SimpleNamespace(describe_spot_price_history=self._history)

    def _products(self, **asked: Any) -> dict[str, list[str]]:
        self.asked = {entry["Field"]: entry["Value"] for entry in asked["Filters"]}
        return {"PriceList": [product(usd) for usd in self.usd]}

    def _history(self, **_: Any) -> dict[str, list[dict[str, Any]]]:
        return {"SpotPriceHistory": [{"Timestamp": 2, "SpotPrice": "0.30"}, {"Timestamp": 1, "SpotPrice": "0.90"}]}


def test_prices_are_of_known_types_with_date_and_source() -> None:
    for (region, name), price in prices._offline().items():
        assert name in names()
        assert price.usd > 0
        assert (price.region, price.as_of[:4]) == (region, "2026")
        assert price.source


def test_what_no_list_has_is_unknown_and_no_zero() -> None:
    assert prices.offline("m7i.large", "eu-west-1") is None
    assert prices.offline("p5e.48xlarge", "us-east-1") is None

    cost = estimate(config("spot-gpu"), offline_lookup(config("spot-gpu")))
    assert cost.unknown == ["gpu: g6.xlarge (spot)"]
    assert cost.hourly().startswith("unknown: $")
    assert "what gpu: g6.xlarge (spot) costs" in cost.hourly()


def test_an_hour_of_the_largest_preset() -> None:
    cost = estimate(config("efa-h100"), offline_lookup(config("efa-h100")))
    volumes = 65 * 100 * 0.08 / 730
    assert cost.known_usd == pytest.approx(0.8064 + 64 * 55.04 + volumes + 2 * 0.005 + 0.045)
    assert cost.hourly() == "$3,524.13 an hour"
    assert cost.total() == "$14,096.53 in 4 h"


def test_the_live_price_is_the_one_on_demand() -> None:
    session = Pricing("0.0000000000", "55.0400000000")
    price = prices.on_demand(session, "p5.48xlarge", "us-east-1")
    assert price.usd == 55.04
    assert session.asked["marketoption"] == "OnDemand"
    assert prices.on_demand(Pricing("0.0"), "p5.48xlarge", "us-east-1") is None
    assert prices.on_demand(Pricing(), "p5.48xlarge", "us-east-1") is None


def test_spot_is_priced_by_its_latest_price() -> None:
    cluster = config("spot-gpu")
    cost = estimate(cluster, live_lookup(cluster, Pricing("0.1008")))
    assert cost.unknown == []
    assert cost.known_usd == pytest.approx(0.1008 + 4 * 0.30 + 500 * 0.08 / 730 + 5 * 0.005)


def test_a_capacity_block_is_paid_already() -> None:
    block = {
        "name": "gpu",
        "type": "p5.48xlarge",
        "count": 2,
        "efa": True,
        "market": "capacity-block",
        "reservation": "cr-1",
    }
    cluster = config("efa-h100", workers=[block])
    line = estimate(cluster, offline_lookup(cluster)).lines[1]
    assert (line.usd, line.basis) == (0, "paid when the block was bought")
