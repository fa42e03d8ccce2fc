"""The configuration of a cluster, typed: what can be wrong is refused before any resource is declared."""

import datetime
import ipaddress
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra import config_rules, durations, presets
from infra.config_errors import ConfigError, sentence

Market = Literal["on-demand", "spot", "capacity-block"]
Egress = Literal["public-ip", "nat", "endpoints", "existing"]
SSM = "ssm"
_DEEP_LEARNING_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"


def _duration(value: str) -> str:
    durations.minutes(value)
    return value


def _one_address(value: str) -> str:
    if value == SSM:
        return value
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError(f"{value!r} is no IPv4 address with its /32") from None
    if network.prefixlen != 32:
        raise ValueError(f"{value} lets {network.num_addresses} addresses in")
    return str(network)  # EC2 takes no address without its /32


def _vpc_range(value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError(f"{value!r} is no IPv4 range") from None
    if not network.is_private or not 16 <= network.prefixlen <= 24:
        raise ValueError(f"{value} is no private range between /16 and /24")
    return value


def tag_value(text: str) -> str:
    """A text with what IAM refuses in a tag's value, as in `CORP\\jane`, replaced by `-`."""
    return "".join(sign if unicodedata.category(sign)[0] in "LNZ" or sign in "_.:/=+-@" else "-" for sign in text)


def _tag_value(value: str) -> str:
    if value != tag_value(value):
        raise ValueError("AWS takes letters, numbers, blanks and _.:/=+-@ in a tag")
    return value


def _usual_region(value: str) -> str:
    if re.match("cn-|us-gov-|[a-z]+-iso", value):
        raise ValueError("it is in a part of AWS that has other names and hosts, which COS does not know")
    return value


def _after(pattern: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} does not match {pattern}")
        return value

    return AfterValidator(check)


Duration = Annotated[str, AfterValidator(_duration)]
Name = Annotated[str, _after("[a-z][a-z0-9-]{0,29}")]


def _key(description: str, remedy: str, **rest: Any) -> Any:
    """A field that tells what it is for, and how a wrong value is mended."""
    return Field(description=description, json_schema_extra={"remedy": remedy}, **rest)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MasterConfig(_Model):
    """The node that runs Spark's master and the jobs' drivers: always one, always on demand."""

    type: str = _key("EC2 instance type", "name an x86_64 type such as m7i.xlarge", default="m7i.xlarge")
    disk_gb: int = _key("root volume in GB", "give 8 to 16384", default=100, ge=8, le=16384)


class WorkerGroup(_Model):
    """Workers of one type."""

    name: Name = _key("name of the group", "use up to 30 of a-z, 0-9 and -, a letter first")
    type: str = _key("EC2 instance type", "name an x86_64 type such as g6.xlarge")
    count: int = _key("how many workers", "give 1 to 512", ge=1, le=512)
    market: Market = _key(
        "`on-demand`, `spot`, or `capacity-block` with the `reservation` that was bought",
        "choose on-demand, spot or capacity-block",
        default="on-demand",
    )
    efa: bool = _key("an EFA on every network card of the type", "give true or false", default=False)
    reservation: str | None = _key(
        "id of a capacity reservation or of a capacity block; none is ever bought",
        "give its id as in cr-0123456789abcdef0",
        default=None,
        pattern="^cr-[0-9a-f]+$",
    )
    placement_group: str = _key(
        "`auto` (a cluster placement group where there is EFA and no reservation), `none`, or the name of the one that "
        "the reservation was made with",
        "give auto, none or a name",
        default="auto",
        min_length=1,
    )
    disk_gb: int = _key("root volume in GB", "give 8 to 16384", default=100, ge=8, le=16384)

    @property
    def own_placement_group(self) -> bool:
        """Whether the cluster makes a placement group for these workers.

        With a reservation made outside of the group EC2 would find no capacity in it.
        """
        return self.placement_group == "auto" and self.efa and self.reservation is None


class ClusterConfig(_Model):
    """All keys of a cluster, in the namespace `cos` of the stack's configuration."""

    preset: str | None = _key(
        "preset whose values count where a key is not set", "name one of infra/presets", default=None
    )
    cluster: Name = _key(
        "name of the cluster; the stack's unless set", "use up to 30 of a-z, 0-9 and -, a letter first"
    )
    owner: Annotated[str, AfterValidator(_tag_value)] = _key(
        "who answers for it: a name or an address, in the tag cos:owner",
        "run `pulumi config set cos:owner YOU`",
        min_length=1,
        max_length=120,
    )
    region: Annotated[str, AfterValidator(_usual_region)] = _key(
        "AWS region", "name one such as us-east-1", pattern="^[a-z]{2}(-[a-z]+)+-[0-9]$"
    )
    zone: str = _key("availability zone of all nodes", "name one of the region's, such as us-east-1a")
    ttl: Duration = _key(
        "how long each node lives at most, from its boot, as 90m, 8h or 1d12h",
        "give 10m to 30d, as in `pulumi config set cos:ttl 8h`",
        default="8h",
    )
    deadline: AwareDatetime = _key(
        "when nodes, NAT gateway and endpoints end, UTC; `cos extend` moves it, and addresses bill until `cos down`",
        "run `python -m infra.pin STACK`, or set a time with its zone, as 2026-11-26T18:00:00Z",
    )
    idle: Duration = _key(
        "after how long without application and ssh session the nodes end themselves; 0m for never",
        "give a length of time such as 30m",
        default="30m",
    )
    budget_usd: float | None = _key(
        "monthly budget of the cluster, with a mail at 80 % and at what is forecast to pass it",
        "give US dollars, as 500",
        default=None,
        gt=0,
    )
    budget_email: str | None = _key(
        "whom the budget's mail goes to",
        "give an address such as you@example.org",
        default=None,
        pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
    )
    ssh_from: Annotated[str, AfterValidator(_one_address)] = _key(
        "your own public address with /32: from there alone ssh to the master is let in; or `ssm` for no open port",
        "run `python -m infra.pin STACK`, or set your address with /32, or ssm",
    )
    ssh_public_key: Annotated[str, _after(r"(ssh-ed25519|ssh-rsa) [A-Za-z0-9+/=]+( .*)?")] = _key(
        "public key of whoever logs in, ED25519 or RSA, in OpenSSH's format",
        'run `pulumi config set cos:ssh_public_key "$(cat ~/.ssh/id_ed25519.pub)"`',
    )
    ami: str = _key(
        "machine image of all nodes, pinned",
        "run `python -m infra.pin STACK`, which resolves cos:ami_parameter once",
        pattern="^ami-[0-9a-f]+$",
    )
    ami_parameter: str = _key(
        "public SSM parameter that names the image; read by `python -m infra.pin` alone",
        f"give a path such as {_DEEP_LEARNING_IMAGE}",
        default=_DEEP_LEARNING_IMAGE,
        pattern="^/aws/service/[A-Za-z0-9._/-]+$",
    )
    kit: str | None = _key(
        "prefix in the bucket of a kit that is put there by other means, ending in the SHA-256 of its manifest",
        "set cos:kit_dir instead and let Pulumi upload the kit",
        default=None,
        pattern="^[A-Za-z0-9._/-]+/[0-9a-f]{64}$",
    )
    kit_dir: str | None = _key(
        "folder of the kit (manifest.json and what it lists), uploaded to the bucket before a node starts",
        "name the folder that the kit was built in",
        default=None,
        min_length=1,
    )
    bucket: str | None = _key(
        "existing bucket to use; one of the cluster's own is made unless set",
        "name a bucket of yours in the region",
        default=None,
        pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    )
    keep_bucket: bool = _key(
        "whether the cluster's own bucket, with its models and logs, outlives `destroy`",
        "give true or false",
        default=True,
    )
    data_buckets: tuple[str, ...] = _key(
        "further buckets that the nodes may read", "give a list of bucket names", default=()
    )
    egress: Egress = _key(
        "how workers reach AWS: `public-ip` each its own address, `nat` one NAT gateway, `endpoints` interface "
        "endpoints and no internet, `existing` as the subnets of cos:vpc_id do",
        "choose public-ip, nat, endpoints or existing",
        default="public-ip",
    )
    vpc_cidr: Annotated[str, AfterValidator(_vpc_range)] = _key(
        "address range of the cluster's own VPC", "give a private range such as 10.42.0.0/16", default="10.42.0.0/16"
    )
    vpc_id: str | None = _key(
        "existing VPC to use instead",
        "give its id as in vpc-0123456789abcdef0",
        default=None,
        pattern="^vpc-[0-9a-f]+$",
    )
    subnet_id: str | None = _key(
        "subnet of cos:vpc_id for the workers",
        "give its id as in subnet-0123456789abcdef0",
        default=None,
        pattern="^subnet-[0-9a-f]+$",
    )
    master_subnet_id: str | None = _key(
        "subnet of cos:vpc_id for the master; cos:subnet_id unless set",
        "give its id as in subnet-0123456789abcdef0",
        default=None,
        pattern="^subnet-[0-9a-f]+$",
    )
    master: MasterConfig = _key("the master", "give an object with the keys below", default=MasterConfig())
    workers: tuple[WorkerGroup, ...] = _key("the groups of workers", "give a list of groups")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        config_rules.check(self)
        return self

    @property
    def ttl_minutes(self) -> int:
        """The TTL from boot."""
        return durations.minutes(self.ttl)

    @property
    def idle_minutes(self) -> int:
        """The idle limit; 0 for never."""
        return durations.minutes(self.idle)

    @property
    def node_count(self) -> int:
        """The master and all workers."""
        return 1 + sum(group.count for group in self.workers)

    @property
    def public_master(self) -> bool:
        """Whether the master has an Elastic IP."""
        return self.ssh_from != SSM or self.egress == "public-ip"


def load(values: Mapping[str, Any], now: datetime.datetime) -> ClusterConfig:
    """The configuration of a stack.

    Args:
        values: Keys without their namespace, as the stack's configuration has them; a preset's fill the gaps.
        now: The time; a deadline before it is refused.

    Raises:
        ConfigError: A sentence for each thing that is wrong, with its key and its remedy.
    """
    # Pulumi.yaml has an empty default for each key, for a preset could not be told from a default otherwise.
    given = {key: value for key, value in values.items() if value not in ("", [], {}, None)}
    merged = {**presets.values(str(given["preset"])), **given} if "preset" in given else given
    try:
        config = ClusterConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(sentence(ClusterConfig, problem) for problem in error.errors())) from None
    if config.deadline <= now:
        raise ConfigError(
            f"cos:deadline {config.deadline:%Y-%m-%dT%H:%M:%SZ} is past: every node would end at once; "
            "run `python -m infra.pin STACK --deadline` or set a later one."
        )
    return config


def keys(model: type[BaseModel] = ClusterConfig, prefix: str = "cos:") -> Iterator[tuple[str, Any]]:
    """Every key with its pydantic field, those of master and groups too."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
    if model is ClusterConfig:
        yield from keys(MasterConfig, "cos:master.")
        yield from keys(WorkerGroup, "cos:workers[].")
