import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bootstrap import kit
from bootstrap.node.aws import Aws, credentials_of
from bootstrap.node.context import Context
from bootstrap.node.imds import Metadata
from bootstrap.node.layout import Layout
from bootstrap.node.plan import NodeHardware, NodePlan
from tests.bootstrap.node.stand_ins import Programs
from tests.fixtures.metadata import MetadataServer

BUCKET = "cos-quick-otter"


@pytest.fixture
def imds() -> Iterator[MetadataServer]:
    with MetadataServer() as service:
        yield service


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """S3 and Secrets Manager, by HTTP."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_client(moto_endpoint: str) -> Any:
    client = boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def s3(s3_client: Any) -> Iterator[Any]:
    """boto3's S3 client with an empty bucket of the node's stack."""
    yield s3_client
    for key in keys(s3_client):
        s3_client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Stand-ins come first on PATH; those that would harm this machine are there from the start."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    stand_ins = Programs(directory)
    for name in ("shutdown", "systemctl", "wall"):
        stand_ins.add(name)
    return stand_ins


@pytest.fixture
def plan() -> NodePlan:
    return NodePlan(
        cluster="quick-otter",
        role="master",
        group="master",
        region="us-east-1",
        bucket=BUCKET,
        kit="kit/" + "0" * 64,
        ttl_minutes=60,
        idle_minutes=0,
        master_host=None,
        spark_secret="cos-quick-otter-spark",
        expected=NodeHardware(instance_type="m7i.large", vcpus=1, memory_mib=512),
    )


@pytest.fixture
def context(plan: NodePlan, tmp_path: Path, imds: MetadataServer, s3: Any, moto_endpoint: str) -> Context:
    """A node below a temporary directory, with metadata and bucket."""
    metadata = Metadata(imds.endpoint)
    layout = Layout(tmp_path / "root")
    layout.logs.mkdir(parents=True)
    return Context(plan, layout, Aws("us-east-1", lambda: credentials_of(metadata, {}), moto_endpoint), metadata)


def put_kit(client: Any, built: kit.Kit) -> str:
    """Bring a kit to the bucket; its prefix there, as a plan names it."""
    stored = kit.objects(built.directory, "kit/quick-otter")
    for key, path in stored:
        client.upload_file(str(path), BUCKET, key)
    return stored[-1][0].removesuffix("/manifest.json")


def keys(client: Any) -> list[str]:
    """The keys of all objects in the bucket."""
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
