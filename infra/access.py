"""Who may reach the nodes, and what the nodes may do."""

import json
from typing import Any

import pulumi
from pulumi_aws import ec2, iam, secretsmanager, vpc

from bootstrap.node import sent
from infra.config import SSM, ClusterConfig
from infra.labels import Labels
from infra.network import Network
from infra.storage import KIT_ROOT

# What the SSM agent needs for a session; AWS's own AmazonSSMManagedInstanceCore also reads every parameter.
_SESSION_ACTIONS = [
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "ec2messages:AcknowledgeMessage",
    "ec2messages:DeleteMessage",
    "ec2messages:FailMessage",
    "ec2messages:GetEndpoint",
    "ec2messages:GetMessages",
    "ec2messages:SendReply",
]
_ENDPOINT_SERVICES = ("secretsmanager", "ssm", "ssmmessages", "ec2messages")


class Access(pulumi.ComponentResource):
    """Key pair, security groups, the secret of Spark, and a role for the master and one for workers.

    Attributes:
        key_name: The key pair.
        nodes_group_id: Security group of all nodes.
        master_group_ids: Groups of the master.
        endpoints: Ids of the interface endpoints by service.
        spark_secret: ARN of the secret; its value is never in Pulumi's state.
        profiles: Instance profile's name by role.
    """

    def __init__(
        self,
        config: ClusterConfig,
        labels: Labels,
        network: Network,
        bucket_arn: pulumi.Input[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("cos:infra:Access", labels.name("access"), opts=opts)
        self._config, self._labels, self._network = config, labels, network
        self._here = pulumi.ResourceOptions(parent=self)
        key = ec2.KeyPair(
            labels.name("key"), public_key=config.ssh_public_key, tags=labels.tags("key"), opts=self._here
        )
        self.key_name = key.key_name
        self.nodes_group_id = self._nodes_group()
        self.master_group_ids = [self.nodes_group_id]
        if config.ssh_from != SSM:
            self.master_group_ids.append(self._login_group(config.ssh_from))
        self.endpoints = self._endpoints() if config.egress == "endpoints" else {}
        secret = secretsmanager.Secret(
            labels.name("spark"),
            description="What Spark's daemons and applications authenticate by; the master makes its value",
            recovery_window_in_days=0,
            tags=labels.tags("spark"),
            opts=self._here,
        )
        self.spark_secret = secret.arn
        self.profiles = {role: self._profile(role, bucket_arn) for role in ("master", "worker")}
        self.register_outputs({})

    def _group(self, part: str, description: str) -> pulumi.Output[str]:
        group = ec2.SecurityGroup(
            self._labels.name(part),
            vpc_id=self._network.vpc_id,
            description=description,
            tags=self._labels.tags(part),
            opts=self._here,
        )
        return group.id

    def _nodes_group(self) -> pulumi.Output[str]:
        """All traffic among the nodes and ordinary traffic out.

        EFA asks for rules that name the group itself, in and out; a rule to all addresses does not count.
        """
        labels = self._labels
        group = self._group("nodes", f"All nodes of {labels.cluster}")
        vpc.SecurityGroupIngressRule(
            labels.name("in-from-nodes"),
            security_group_id=group,
            ip_protocol="-1",
            referenced_security_group_id=group,
            tags=labels.tags("in-from-nodes"),
            opts=self._here,
        )
        vpc.SecurityGroupEgressRule(
            labels.name("out-to-nodes"),
            security_group_id=group,
            ip_protocol="-1",
            referenced_security_group_id=group,
            tags=labels.tags("out-to-nodes"),
            opts=self._here,
        )
        vpc.SecurityGroupEgressRule(
            labels.name("out-to-all"),
            security_group_id=group,
            ip_protocol="-1",
            cidr_ipv4="0.0.0.0/0",
            tags=labels.tags("out-to-all"),
            opts=self._here,
        )
        return group

    def _login_group(self, address: str) -> pulumi.Output[str]:
        labels = self._labels
        group = self._group("login", f"ssh to the master of {labels.cluster}")
        vpc.SecurityGroupIngressRule(
            labels.name("ssh"),
            security_group_id=group,
            ip_protocol="tcp",
            from_port=22,
            to_port=22,
            cidr_ipv4=address,
            tags=labels.tags("ssh"),
            opts=self._here,
        )
        return group

    def _endpoints(self) -> dict[str, pulumi.Output[str]]:
        """The way to the AWS services that nodes call, for subnets without internet."""
        made = {}
        for service in _ENDPOINT_SERVICES:
            endpoint = ec2.VpcEndpoint(
                self._labels.name(service),
                vpc_id=self._network.vpc_id,
                service_name=f"com.amazonaws.{self._config.region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=[self._network.worker_subnet_id],
                security_group_ids=[self.nodes_group_id],
                tags=self._labels.tags(service),
                opts=self._here,
            )
            self._network.worker_ready.append(endpoint)
            made[service] = endpoint.id
        return made

    def _profile(self, role: str, bucket_arn: pulumi.Input[str]) -> pulumi.Output[str]:
        labels = self._labels
        tags = labels.tags(role, region=self._config.region)
        node_role = iam.Role(
            labels.name(role), assume_role_policy=trust("ec2.amazonaws.com"), tags=tags, opts=self._here
        )
        document = pulumi.Output.all(bucket_arn, self.spark_secret).apply(
            lambda arns: json.dumps(node_policy(self._config, role, arns[0], arns[1]))
        )
        iam.RolePolicy(labels.name(role), role=node_role.id, policy=document, opts=self._here)
        profile = iam.InstanceProfile(labels.name(role), role=node_role.name, tags=tags, opts=self._here)
        return profile.name


def trust(service: str, **condition: Any) -> str:
    """The policy that lets an AWS service take a role."""
    statement: dict[str, Any] = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
    if condition:
        statement["Condition"] = condition
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def node_policy(config: ClusterConfig, role: str, bucket_arn: str, secret_arn: str) -> dict[str, Any]:
    """What a node may do: its bucket, the secret, and a session where there is no open port.

    Nothing lets a node change the kit, nor a worker what jobs were sent: what one node is made to do must not reach the
    next one's boot.
    """
    protected = kit_roots(config)
    readable = [bucket_arn, *(f"arn:aws:s3:::{name}" for name in config.data_buckets)]
    secret_actions = ["secretsmanager:GetSecretValue"]
    if role == "master":
        secret_actions.append("secretsmanager:PutSecretValue")
    else:
        protected.append(sent.PREFIX)
    statements = [
        _allow("ListBuckets", ["s3:ListBucket", "s3:GetBucketLocation"], readable),
        _allow("ReadObjects", ["s3:GetObject"], [f"{arn}/*" for arn in readable]),
        _allow("WriteObjects", ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], [f"{bucket_arn}/*"]),
        {
            "Sid": "LeaveWhatBoots",
            "Effect": "Deny",
            "Action": ["s3:PutObject", "s3:DeleteObject"],
            "Resource": [f"{bucket_arn}/{root}/*" for root in protected],
        },
        _allow("SparkSecret", secret_actions, [secret_arn]),
    ]
    if config.ssh_from == SSM:
        # The agent's actions know no resources.
        statements.append(_allow("Session", _SESSION_ACTIONS, ["*"]))
    return {"Version": "2012-10-17", "Statement": statements}


def kit_roots(config: ClusterConfig) -> list[str]:
    """The folders of the bucket that hold kits, those of its other clusters too."""
    own = config.kit.rsplit("/", 1)[0] if config.kit else KIT_ROOT
    return [own] if own == KIT_ROOT else [KIT_ROOT, own]


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
