"""The bucket for kit, code, logs and models, and the kit in it."""

import json
from pathlib import Path

import pulumi
from pulumi_aws import s3

from bootstrap.kit import objects
from bootstrap.node import sent
from infra.config import ClusterConfig
from infra.config_errors import ConfigError
from infra.labels import Labels

LOG_DAYS = 90
OLD_VERSION_DAYS = 30
SENT_DAYS = 30
KIT_ROOT = "kit"  # each cluster has a folder there, so that the end of one leaves the kits of others


class Storage(pulumi.ComponentResource):
    """One bucket: encrypted, private, versioned, with an end to logs and old versions; or one that exists.

    Attributes:
        bucket: The bucket's name.
        bucket_arn: Its ARN.
        kit: The kit's prefix.
        ready: The kit's objects, which nodes fetch as they boot.
    """

    def __init__(self, config: ClusterConfig, labels: Labels, opts: pulumi.ResourceOptions) -> None:
        super().__init__("cos:infra:Storage", labels.name("storage"), opts=opts)
        self._labels = labels
        self._here = pulumi.ResourceOptions(parent=self)
        self.ready: list[pulumi.Resource] = []
        self.bucket: pulumi.Input[str]
        self.bucket_arn: pulumi.Input[str]
        if config.bucket is not None:
            self.bucket = config.bucket
            self.bucket_arn = f"arn:aws:s3:::{config.bucket}"
        else:
            self._create(keep=config.keep_bucket)
        self.kit = config.kit or self._upload(Path(str(config.kit_dir)))
        self.register_outputs({})

    def _create(self, keep: bool) -> None:
        labels = self._labels
        bucket = s3.Bucket(
            labels.name("data"),
            force_destroy=not keep,
            tags=labels.tags("data"),
            # Models outlive their cluster: `destroy` forgets the bucket and leaves it.
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=keep),
        )
        self.bucket, self.bucket_arn = bucket.id, bucket.arn
        settings = pulumi.ResourceOptions(parent=self, retain_on_delete=keep)
        s3.BucketPublicAccessBlock(
            labels.name("private"),
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=settings,
        )
        s3.BucketServerSideEncryptionConfiguration(
            labels.name("encrypted"),
            bucket=bucket.id,
            rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
            opts=settings,
        )
        versioning = s3.BucketVersioning(
            labels.name("versioned"), bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=settings
        )
        s3.BucketLifecycleConfiguration(
            labels.name("lifecycle"),
            bucket=bucket.id,
            rules=lifecycle_rules(),
            # S3 takes rules over old versions only from a bucket that has versions.
            opts=pulumi.ResourceOptions.merge(settings, pulumi.ResourceOptions(depends_on=[versioning])),
        )
        s3.BucketPolicy(
            labels.name("tls-only"), bucket=bucket.id, policy=bucket.arn.apply(tls_only_policy), opts=settings
        )

    def _upload(self, folder: Path) -> str:
        stored = kit_objects(folder, f"{KIT_ROOT}/{self._labels.cluster}")
        for key, path in stored:
            uploaded = s3.BucketObjectv2(
                self._labels.name(key.replace("/", "-")),
                bucket=self.bucket,
                key=key,
                source=pulumi.FileAsset(str(path)),
                tags=self._labels.tags("kit"),
                opts=self._here,
            )
            self.ready.append(uploaded)
        return stored[-1][0].removesuffix("/manifest.json")


def kit_objects(folder: Path, root: str) -> list[tuple[str, Path]]:
    """Keys below a root and files of a kit, its manifest the last.

    Raises:
        ConfigError: The folder holds no kit.
    """
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"cos:kit_dir is {folder}, which has no manifest.json: name the folder the kit was built in.")
    return objects(folder, root)


def lifecycle_rules() -> list[s3.BucketLifecycleConfigurationRuleArgsDict]:
    """Logs end, what jobs were sent ends, old versions end, and uploads that were broken off end.

    Beside a node's logs lies what it said of its boot, by which it is known as ready: no node lives for that long. A
    job's log stays with its models.
    """
    return [
        _end_of("nodes", LOG_DAYS),
        _end_of("events", LOG_DAYS),
        _end_of(sent.PREFIX, SENT_DAYS),
        {
            "id": "leftovers",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "noncurrent_version_expiration": {"noncurrent_days": OLD_VERSION_DAYS},
            "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
        },
    ]


def _end_of(prefix: str, days: int) -> s3.BucketLifecycleConfigurationRuleArgsDict:
    return {"id": prefix, "status": "Enabled", "filter": {"prefix": f"{prefix}/"}, "expiration": {"days": days}}


def tls_only_policy(bucket_arn: str) -> str:
    """The bucket policy that refuses requests without TLS."""
    statement = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [bucket_arn, f"{bucket_arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
