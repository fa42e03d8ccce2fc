"""The master and the workers."""

from typing import Any

import pulumi
from pulumi_aws import ec2

from infra import efa
from infra.config import WorkerGroup
from infra.instances import facts
from infra.launch import Machine, Site, digest, market, network_interface, template, user_data


class Master(pulumi.ComponentResource):
    """The node of Spark's master: on demand always, with an address that outlives it.

    Its interface is a resource of its own, so that workers know the address before the node runs, launch beside it, and
    stay when it is replaced.

    Attributes:
        instance: The node.
        private_ip: What workers reach it by.
        public_ip: Its Elastic IP, None without.
    """

    def __init__(self, site: Site) -> None:
        labels, config = site.labels, site.config
        super().__init__("cos:infra:Master", labels.name("master"), opts=site.opts)
        self._site = site
        self._here = pulumi.ResourceOptions(parent=self)
        interface = ec2.NetworkInterface(
            labels.name("master"),
            subnet_id=site.network.master_subnet_id,
            security_groups=site.access.master_group_ids,
            description=f"Master of {labels.cluster}",
            tags=labels.tags("master"),
            opts=self._here,
        )
        self.private_ip = interface.private_ip
        self.public_ip: pulumi.Output[str] | None = None
        ready = [*site.network.master_ready, *site.storage.ready]
        if config.public_master:
            address = self._address(interface)
            self.public_ip = address.public_ip
            # The node's first boot reaches out at once.
            ready.append(address)
        self.instance = self._instance(interface, ready)
        self.register_outputs({})

    def _address(self, interface: ec2.NetworkInterface) -> ec2.Eip:
        labels = self._site.labels
        return ec2.Eip(
            labels.name("master"),
            domain="vpc",
            network_interface=interface.id,
            tags=labels.tags("master"),
            opts=self._here,
        )

    def _instance(self, interface: ec2.NetworkInterface, ready: list[pulumi.Resource]) -> ec2.Instance:
        labels, config = self._site.labels, self._site.config
        machine = Machine("master", "master", config.master.type, config.master.disk_gb, efas=0)
        text = user_data(self._site, machine, None)
        made = ec2.LaunchTemplate(labels.name("master"), **template(self._site, machine, text), opts=self._here)
        return ec2.Instance(
            labels.name("master"),
            launch_template={"id": made.id, "version": "$Latest"},
            primary_network_interface={"network_interface_id": interface.id},
            tags=labels.tags("master", role="master", group="master"),
            volume_tags=labels.tags("master"),
            opts=_options(self, ready, digest(config, config.master.model_dump(), text)),
        )


class Workers(pulumi.ComponentResource):
    """A group of workers of one type.

    Attributes:
        instances: The nodes by their names within the cluster.
    """

    def __init__(self, site: Site, group: WorkerGroup, master_host: pulumi.Input[str]) -> None:
        labels = site.labels
        super().__init__("cos:infra:Workers", labels.name(group.name), opts=site.opts)
        self._site, self._group = site, group
        interfaces = efa.layout(facts(group.type), group.efa)
        machine = Machine("worker", group.name, group.type, group.disk_gb, efa.efa_count(interfaces))
        text = user_data(site, machine, master_host)
        made = ec2.LaunchTemplate(
            labels.name(group.name),
            network_interfaces=[network_interface(site, interface) for interface in interfaces],
            placement=self._placement(),
            **market(group),
            **template(site, machine, text),
            opts=pulumi.ResourceOptions(parent=self),
        )
        launched = digest(site.config, group.model_dump(exclude={"count"}), text)
        options = _options(self, [*site.network.worker_ready, *site.storage.ready], launched)
        names = [f"{group.name}-{index}" for index in range(group.count)]
        self.instances = {name: self._instance(name, made, options) for name in names}
        self.register_outputs({})

    def _instance(self, name: str, made: ec2.LaunchTemplate, options: pulumi.ResourceOptions) -> ec2.Instance:
        labels = self._site.labels
        return ec2.Instance(
            labels.name(name),
            launch_template={"id": made.id, "version": "$Latest"},
            tags=labels.tags(name, role="worker", group=self._group.name),
            volume_tags=labels.tags(name),
            opts=options,
        )

    def _placement(self) -> ec2.LaunchTemplatePlacementArgsDict | None:
        group, labels = self._group, self._site.labels
        if group.own_placement_group:
            made = ec2.PlacementGroup(
                labels.name(group.name),
                strategy="cluster",
                tags=labels.tags(group.name),
                opts=pulumi.ResourceOptions(parent=self),
            )
            return {"group_name": made.name}
        return None if group.placement_group in {"auto", "none"} else {"group_name": group.placement_group}


def _options(parent: pulumi.Resource, ready: list[pulumi.Resource], launched: Any) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(
        parent=parent,
        depends_on=ready,
        # GPU capacity for the old node and the new one at once is not to be had, and the master's address is one.
        delete_before_replace=True,
        # By digest and `$Latest`, for a template's version also counts changes of its tags, as of the deadline.
        replacement_trigger=launched,
    )
