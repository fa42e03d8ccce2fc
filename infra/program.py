"""The whole cluster, from its configuration to its outputs."""

import datetime
import json
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi.runtime import config as runtime_config

from infra import outputs
from infra.access import Access
from infra.config import ClusterConfig, load
from infra.guard import Guard
from infra.labels import Labels
from infra.launch import Site
from infra.network import Network
from infra.nodes import Master, Workers
from infra.storage import Storage


def main() -> None:
    """What `pulumi up` runs, from the command line and from the launcher.

    Raises:
        ConfigError: The stack's configuration cannot be right; nothing was declared.
    """
    declare(load(stack_values(), datetime.datetime.now(datetime.UTC)))


def stack_values() -> dict[str, Any]:
    """The stack's configuration, less its namespace; the cluster is named as the stack unless a key says otherwise."""
    # Pulumi's Config lists no keys: a misspelt one would be passed over. The command line hands them over by the
    # environment, an inline program has them in the runtime.
    everything = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    own = {key.removeprefix("cos:"): _value(text) for key, text in everything.items() if key.startswith("cos:")}
    return {**own, "cluster": own.get("cluster") or pulumi.get_stack()}


def _value(text: str) -> Any:
    """A value as YAML had it; Pulumi hands structures over as JSON, all else as text."""
    return json.loads(text) if text[:1] in {"[", "{"} else text


def declare(config: ClusterConfig) -> None:
    """Declare every resource of a cluster and export its outputs."""
    labels = Labels.of(config)
    provider = aws.Provider("aws", region=config.region)

    cluster = pulumi.ComponentResource(
        "cos:infra:Cluster", config.cluster, opts=pulumi.ResourceOptions(providers=[provider])
    )
    inside = pulumi.ResourceOptions(parent=cluster)
    network = Network(config, labels, inside)
    storage = Storage(config, labels, inside)
    access = Access(config, labels, network, storage.bucket_arn, inside)
    site = Site(config, labels, network, access, storage, inside)
    master = Master(site)
    groups = [Workers(site, group, master.private_ip) for group in config.workers]
    instances = {"master": master.instance}
    for group in groups:
        instances |= group.instances
    Guard(site, instances)
    outputs.export(config, storage.bucket, access.spark_secret, master, groups)
