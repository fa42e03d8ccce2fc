"""The network: one VPC, a public and a private subnet in the nodes' zone, or subnets that exist."""

import ipaddress

import pulumi
from pulumi_aws import ec2

from infra.config import ClusterConfig
from infra.labels import Labels


class Network(pulumi.ComponentResource):
    """Where nodes are launched.

    Attributes:
        vpc_id: The VPC.
        master_subnet_id: The master's subnet.
        worker_subnet_id: The workers'.
        master_ready: What has to be there before the master boots: it would wait, paid for, for a way out.
        worker_ready: The same for workers.
        nat_gateway: Its id, None without.
    """

    def __init__(self, config: ClusterConfig, labels: Labels, opts: pulumi.ResourceOptions) -> None:
        super().__init__("cos:infra:Network", labels.name("network"), opts=opts)
        self._config, self._labels = config, labels
        self._here = pulumi.ResourceOptions(parent=self)
        self._ways: dict[str, list[pulumi.Resource]] = {"public": [], "private": []}
        self.vpc_id: pulumi.Input[str]
        self.worker_subnet_id: pulumi.Input[str]
        self.master_subnet_id: pulumi.Input[str]
        self.nat_gateway: pulumi.Output[str] | None = None
        private = config.egress in {"nat", "endpoints"}
        self.worker_ready = self._ways["private" if private else "public"]
        self.master_ready = self._ways["private" if private and not config.public_master else "public"]
        if config.vpc_id is None:
            self._create()
        else:
            self.vpc_id = config.vpc_id
            self.worker_subnet_id = str(config.subnet_id)
            self.master_subnet_id = str(config.master_subnet_id or config.subnet_id)
        self.register_outputs({})

    def _create(self) -> None:
        config, labels = self._config, self._labels
        vpc = ec2.Vpc(
            labels.name("vpc"),
            cidr_block=config.vpc_cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=labels.tags("vpc"),
            opts=self._here,
        )
        self.vpc_id = vpc.id
        public_range, private_range = subnet_ranges(config.vpc_cidr)
        public = self._subnet("public", public_range)
        gateway = ec2.InternetGateway(
            labels.name("internet"), vpc_id=vpc.id, tags=labels.tags("internet"), opts=self._here
        )
        public_table = self._table("public", public)
        self._default_route("public", public_table, gateway_id=gateway.id)
        tables = [public_table.id]
        self.master_subnet_id = self.worker_subnet_id = public.id
        if config.egress != "public-ip":
            private = self._subnet("private", private_range)
            private_table = self._table("private", private)
            tables.append(private_table.id)
            self.worker_subnet_id = private.id
            self.master_subnet_id = public.id if config.public_master else private.id
            if config.egress == "nat":
                self.nat_gateway = self._nat(public, gateway)
                self._default_route("private", private_table, nat_gateway_id=self.nat_gateway)
        self._s3_endpoint(tables)

    def _subnet(self, kind: str, cidr: str) -> ec2.Subnet:
        return ec2.Subnet(
            self._labels.name(kind),
            vpc_id=self.vpc_id,
            cidr_block=cidr,
            availability_zone=self._config.zone,
            # Interfaces say themselves whether they have a public address.
            map_public_ip_on_launch=False,
            tags=self._labels.tags(kind),
            opts=self._here,
        )

    def _table(self, kind: str, subnet: ec2.Subnet) -> ec2.RouteTable:
        name = self._labels.name(f"{kind}-routes")
        table = ec2.RouteTable(name, vpc_id=self.vpc_id, tags=self._labels.tags(f"{kind}-routes"), opts=self._here)
        association = ec2.RouteTableAssociation(name, subnet_id=subnet.id, route_table_id=table.id, opts=self._here)
        self._ways[kind].append(association)
        return table

    def _default_route(
        self,
        kind: str,
        table: ec2.RouteTable,
        gateway_id: pulumi.Input[str] | None = None,
        nat_gateway_id: pulumi.Input[str] | None = None,
    ) -> None:
        route = ec2.Route(
            self._labels.name(f"{kind}-default"),
            route_table_id=table.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway_id,
            nat_gateway_id=nat_gateway_id,
            opts=self._here,
        )
        self._ways[kind].append(route)

    def _nat(self, public: ec2.Subnet, gateway: ec2.InternetGateway) -> pulumi.Output[str]:
        labels = self._labels
        address = ec2.Eip(labels.name("nat"), domain="vpc", tags=labels.tags("nat"), opts=self._here)
        nat = ec2.NatGateway(
            labels.name("nat"),
            subnet_id=public.id,
            allocation_id=address.id,
            tags=labels.tags("nat"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[gateway]),
        )
        return nat.id

    def _s3_endpoint(self, tables: list[pulumi.Output[str]]) -> None:
        """Kit, data and models go to S3 without NAT's price per GB."""
        endpoint = ec2.VpcEndpoint(
            self._labels.name("s3"),
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{self._config.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=tables,
            tags=self._labels.tags("s3"),
            opts=self._here,
        )
        for way in self._ways.values():
            way.append(endpoint)


def subnet_ranges(vpc_cidr: str) -> tuple[str, str]:
    """The public and the private subnet's ranges: a /20 each, or the halves of a smaller VPC."""
    network = ipaddress.IPv4Network(vpc_cidr)
    ranges = network.subnets(new_prefix=max(network.prefixlen + 1, 20))
    return str(next(ranges)), str(next(ranges))
