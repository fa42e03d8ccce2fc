"""What an hour costs: the list beside the table of types, or AWS's own answer where there are credentials."""

import datetime
import functools
import json
from pathlib import Path
from typing import NamedTuple

import boto3

_LISTS = Path(__file__).parent / "instances" / "prices.json"

# us-east-1's list prices (aws.amazon.com/ebs/pricing, vpc/pricing, privatelink/pricing); others differ a little.
GP3_USD_PER_GB_MONTH = 0.08
PUBLIC_IPV4_USD_PER_HOUR = 0.005
NAT_GATEWAY_USD_PER_HOUR = 0.045
INTERFACE_ENDPOINT_USD_PER_HOUR = 0.01
HOURS_PER_MONTH = 730


class Price(NamedTuple):
    """A price with what it is worth.

    Attributes:
        usd: US dollars per hour.
        region: Whose price it is.
        as_of: The day of the list, ISO 8601 (a month where no more is known).
        source: Where it was read.
    """

    usd: float
    region: str
    as_of: str
    source: str


@functools.cache
def _offline() -> dict[tuple[str, str], Price]:
    prices = {}
    for part in json.loads(_LISTS.read_text()):
        for name, usd in part["usd_per_hour"].items():
            prices[part["region"], name] = Price(usd, part["region"], part["as_of"], part["source"])
    return prices


def offline(instance_type: str, region: str) -> Price | None:
    """The list price on demand, or None where no list has it for that region: never 0, never another region's."""
    return _offline().get((region, instance_type))


def on_demand(session: boto3.Session, instance_type: str, region: str) -> Price | None:
    """AWS's price on demand for Linux today, or None where the price list has none.

    Raises:
        botocore.exceptions.ClientError: The credentials do not allow `pricing:GetProducts`.
    """
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
        # A capacity block's row stands beside it, at 0.
        "marketoption": "OnDemand",
    }
    answer = session.client("pricing", region_name="us-east-1").get_products(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
    )
    found = [_list_price(json.loads(product)) for product in answer["PriceList"]]
    usd = max(found, default=0.0)
    return Price(usd, region, _today(), "AWS Price List API") if usd else None


def spot(session: boto3.Session, instance_type: str, zone: str) -> Price | None:
    """The latest spot price of a type in a zone, or None where it has no history."""
    history = session.client("ec2", region_name=zone[:-1]).describe_spot_price_history(
        InstanceTypes=[instance_type],
        AvailabilityZone=zone,
        ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.datetime.now(datetime.UTC),
    )["SpotPriceHistory"]
    if not history:
        return None
    latest = max(history, key=lambda entry: entry["Timestamp"])
    return Price(float(latest["SpotPrice"]), zone, _today(), "EC2 spot price history")


def _list_price(product: dict[str, dict[str, dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]]]) -> float:
    return max(
        float(dimension["pricePerUnit"].get("USD", 0))
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
    )


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
