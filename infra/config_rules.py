"""Rules that look at several keys of a configuration; each says what to set instead."""

from collections import Counter
from typing import TYPE_CHECKING

from infra import durations, efa
from infra.instances import InstanceFacts, UnknownTypeError, facts

if TYPE_CHECKING:
    from infra.config import ClusterConfig, WorkerGroup

_NAME_LENGTH = 64 - 8


def check(config: "ClusterConfig") -> None:
    """Refuse what cannot be launched.

    Raises:
        ValueError: The first rule that is broken, in one sentence without its full stop.
    """
    _times(config)
    _network(config)
    _storage(config)
    _budget(config)
    _type("cos:master.type", config.master.type)
    twice = [name for name, count in Counter(group.name for group in config.workers).items() if count > 1]
    if twice:
        raise ValueError(f"cos:workers has two groups named {twice[0]}: give each its own name")
    for index, group in enumerate(config.workers):
        _group(f"cos:workers[{index}]", group)
        _names(f"cos:workers[{index}]", group, config)
        _addresses(f"cos:workers[{index}]", group, config)


def _times(config: "ClusterConfig") -> None:
    minutes = durations.minutes(config.ttl)
    if not 10 <= minutes <= 30 * 24 * 60:
        raise ValueError(f"cos:ttl is {config.ttl}: give 10m to 30d, as in `pulumi config set cos:ttl 8h`")
    if durations.minutes(config.idle) > minutes:
        raise ValueError(f"cos:idle {config.idle} is longer than cos:ttl {config.ttl}: shorten it, or set 0m for never")


def _network(config: "ClusterConfig") -> None:
    if not config.zone.startswith(config.region):
        raise ValueError(f"cos:zone {config.zone} is not in cos:region {config.region}: set a zone of that region")
    if config.vpc_id and not config.subnet_id:
        raise ValueError("cos:subnet_id is not set: cos:vpc_id needs the subnet for the workers, in cos:zone")
    if not config.vpc_id and (config.subnet_id or config.master_subnet_id):
        raise ValueError("cos:vpc_id is not set: name the VPC that the subnets are in, or remove the subnets")
    if bool(config.vpc_id) != (config.egress == "existing") and config.egress != "public-ip":
        wanted = "existing or public-ip" if config.vpc_id else "public-ip, nat or endpoints"
        raise ValueError(
            f"cos:egress is {config.egress}: with {'an existing' if config.vpc_id else 'an own'} VPC set {wanted}"
        )


def _storage(config: "ClusterConfig") -> None:
    if (config.kit is None) == (config.kit_dir is None):
        state = "is not set" if config.kit is None else "and cos:kit are both set"
        raise ValueError(
            f"cos:kit_dir {state}: set the folder of the kit, or the prefix of one in the bucket, not both"
        )


def _budget(config: "ClusterConfig") -> None:
    if (config.budget_usd is None) != (config.budget_email is None):
        missing = "cos:budget_email" if config.budget_email is None else "cos:budget_usd"
        raise ValueError(f"{missing} is not set: a budget needs both the sum and whom to write to")


def _type(key: str, name: str) -> InstanceFacts:
    try:
        found = facts(name)
    except UnknownTypeError as error:
        raise ValueError(f"{key} {str(error).rstrip('.')}") from None
    if found.architecture != "x86_64":
        raise ValueError(
            f"{key} {name} is {found.architecture}: choose an x86_64 type, which the image and the kit are for"
        )
    return found


def _group(key: str, group: "WorkerGroup") -> None:
    found = _type(f"{key}.type", group.type)
    if group.market not in found.markets:
        raise ValueError(f"{key}.market is {group.market}: EC2 sells {group.type} as {' or '.join(found.markets)} only")
    if group.market == "capacity-block" and group.reservation is None:
        raise ValueError(f"{key}.reservation is not set: buy the capacity block first and give its id here")
    if group.market == "spot" and group.reservation is not None:
        raise ValueError(f"{key}.reservation is set on spot: set market to on-demand, or remove the reservation")
    if group.efa and not found.efa_interfaces:
        raise ValueError(f"{key}.efa is true, and {group.type} takes no EFA: set it false, or take a larger size")
    if group.own_placement_group and not found.cluster_placement:
        raise ValueError(f"{key}.placement_group is auto, and {group.type} is in no cluster group: set it to none")


def _names(key: str, group: "WorkerGroup", config: "ClusterConfig") -> None:
    """EventBridge Scheduler takes names of up to 64 characters, of which Pulumi's suffix is 8."""
    longest = len(f"{config.cluster}-{group.name}-{group.count - 1}")
    if longest > _NAME_LENGTH:
        raise ValueError(
            f"{key}.name {group.name} is too long beside cos:cluster {config.cluster}: shorten one of them by "
            f"{longest - _NAME_LENGTH} characters"
        )


def _addresses(key: str, group: "WorkerGroup", config: "ClusterConfig") -> None:
    """EC2 gives a public address to no instance that is launched with several interfaces."""
    interfaces = len(efa.layout(facts(group.type), group.efa))
    if interfaces > 1 and config.egress == "public-ip":
        raise ValueError(
            f"cos:egress is public-ip, and each of {key} has {interfaces} network interfaces, with which EC2 gives no "
            "public address: set cos:egress to nat or endpoints"
        )
