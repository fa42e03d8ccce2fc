"""What a cluster costs an hour and up to its deadline, line by line; what is not known is said, never counted as 0."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import boto3

from infra import prices
from infra.config import ClusterConfig, WorkerGroup
from infra.prices import Price

Lookup = Callable[[str, str], Price | None]
"""From an instance type and a market to its price."""


@dataclass(frozen=True)
class Line:
    """One kind of thing that costs.

    Attributes:
        what: Its name for people.
        count: How many of it.
        each_usd: US dollars per hour for one, None where it is not known.
        basis: What the price goes by.
    """

    what: str
    count: int
    each_usd: float | None
    basis: str

    @property
    def usd(self) -> float | None:
        """US dollars per hour for all of it."""
        return None if self.each_usd is None else self.count * self.each_usd


@dataclass(frozen=True)
class Estimate:
    """All lines of a cluster, for so many hours at most; S3 and traffic go by use and are left out."""

    lines: tuple[Line, ...]
    hours: float

    @property
    def known_usd(self) -> float:
        """US dollars per hour of everything that has a price."""
        return sum(line.usd for line in self.lines if line.usd is not None)

    @property
    def unknown(self) -> list[str]:
        """What has no known price."""
        return [line.what for line in self.lines if line.usd is None]

    def hourly(self) -> str:
        """The price an hour as a sentence's part."""
        return self._sum(self.known_usd, " an hour")

    def total(self) -> str:
        """The price up to the deadline as a sentence's part."""
        return self._sum(self.known_usd * self.hours, f" in {self.hours:g} h")

    def _sum(self, usd: float, suffix: str) -> str:
        if not self.unknown:
            return f"${usd:,.2f}{suffix}"
        return f"unknown: ${usd:,.2f}{suffix} and what {', '.join(self.unknown)} costs"


def offline_lookup(config: ClusterConfig) -> Lookup:
    """Prices from the project's list: on demand only, for spot's change by the hour."""

    def lookup(instance_type: str, market: str) -> Price | None:
        return prices.offline(instance_type, config.region) if market == "on-demand" else None

    return lookup


def live_lookup(config: ClusterConfig, session: boto3.Session) -> Lookup:
    """Prices from AWS, with credentials."""

    def lookup(instance_type: str, market: str) -> Price | None:
        if market == "spot":
            return prices.spot(session, instance_type, config.zone)
        return prices.on_demand(session, instance_type, config.region) if market == "on-demand" else None

    return lookup


def estimate(config: ClusterConfig, lookup: Lookup) -> Estimate:
    """What a configuration costs."""
    lines = [_node("master", config.master.type, 1, "on-demand", lookup)]
    lines += [_node(group.name, group.type, group.count, group.market, lookup) for group in config.workers]
    lines += _volumes(config)
    lines += _network(config)
    return Estimate(tuple(lines), config.ttl_minutes / 60)


def _node(name: str, instance_type: str, count: int, market: str, lookup: Lookup) -> Line:
    what = f"{name}: {instance_type}" + ("" if market == "on-demand" else f" ({market})")
    if market == "capacity-block":
        return Line(what, count, 0.0, "paid when the block was bought")
    price = lookup(instance_type, market)
    if price is None:
        return Line(what, count, None, "no list price at hand")
    return Line(what, count, price.usd, f"{price.source}, {price.region}, {price.as_of}")


def _volumes(config: ClusterConfig) -> Iterator[Line]:
    groups: tuple[WorkerGroup, ...] = config.workers
    gigabytes = config.master.disk_gb + sum(group.count * group.disk_gb for group in groups)
    each = prices.GP3_USD_PER_GB_MONTH / prices.HOURS_PER_MONTH
    yield Line("gp3 volumes, GB", gigabytes, each, "list price, us-east-1")


def _network(config: ClusterConfig) -> Iterator[Line]:
    nat = config.egress == "nat"
    workers = sum(group.count for group in config.workers) if config.egress == "public-ip" else 0
    addresses = workers + config.public_master + nat
    basis = "list price, us-east-1"
    if addresses:
        yield Line("public IPv4 addresses", addresses, prices.PUBLIC_IPV4_USD_PER_HOUR, basis)
    if nat:
        yield Line("NAT gateway, without its traffic", 1, prices.NAT_GATEWAY_USD_PER_HOUR, basis)
    if config.egress == "endpoints":
        yield Line("interface endpoints", 4, prices.INTERFACE_ENDPOINT_USD_PER_HOUR, basis)
