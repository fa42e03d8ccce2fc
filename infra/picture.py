"""A cluster's network and nodes as a tree for the terminal."""

from rich.tree import Tree

from infra import efa
from infra.config import SSM, ClusterConfig, WorkerGroup
from infra.instances import facts
from infra.network import subnet_ranges


def network(config: ClusterConfig) -> Tree:
    """The VPC with its subnets, what is in them, and the ways in and out."""
    if config.vpc_id is not None:
        root = Tree(f"VPC {config.vpc_id}, which exists, {config.zone}")
        public = root.add(f"subnet {config.master_subnet_id or config.subnet_id}")
        private = root.add(f"subnet {config.subnet_id}")
    else:
        root, public, private = _own(config)
    ways = {True: public, False: private}
    ways[config.public_master or config.vpc_id is not None].add(_master(config))
    if config.egress == "nat":
        public.add("NAT gateway")
    for group in config.workers:
        ways[config.egress == "public-ip" and config.vpc_id is None].add(_workers(config, group))
    return root


def _own(config: ClusterConfig) -> tuple[Tree, Tree, Tree]:
    root = Tree(f"VPC {config.vpc_cidr}, {config.zone}")
    public_range, private_range = subnet_ranges(config.vpc_cidr)
    public = root.add(f"public subnet {public_range} ── internet gateway")
    private = public
    if config.egress != "public-ip":
        way = "NAT gateway" if config.egress == "nat" else "interface endpoints, no internet"
        private = root.add(f"private subnet {private_range} ── {way}")
    root.add("S3 gateway endpoint ── bucket")
    return root, public, private


def _master(config: ClusterConfig) -> str:
    address = "Elastic IP" if config.public_master else "no public address"
    way_in = "no open port, sessions by SSM" if config.ssh_from == SSM else f"ssh from {config.ssh_from} alone"
    return f"master: {config.master.type}, {address}, {way_in}"


def _workers(config: ClusterConfig, group: WorkerGroup) -> Tree:
    address = "own public addresses" if config.egress == "public-ip" else "no public address"
    tree = Tree(f"{group.name}: {group.count} x {group.type}, {group.market}, {address}")
    interfaces = efa.layout(facts(group.type), group.efa)
    tree.add(f"interfaces: {interfaces_text(interfaces)}")
    if group.own_placement_group:
        tree.add("cluster placement group")
    if group.reservation:
        tree.add(f"capacity of {group.reservation}")
    return tree


def interfaces_text(interfaces: tuple[efa.Interface, ...]) -> str:
    """A layout in words: the primary interface, then the EFAs by card and device."""
    first, *rest = interfaces
    primary = f"{'ENA with EFA' if first.kind == 'efa' else 'ENA'} on card 0"
    if not rest:
        return primary
    places = [f"{interface.card}/{interface.device}" for interface in rest]
    shown = places if len(places) <= 4 else [*places[:2], "…", places[-1]]
    return f"{primary}, {len(rest)} EFA-only on card/device {', '.join(shown)}"
