"""Requests by curl: signed as botocore would sign them, taken by S3 and Secrets Manager, refused with a reason."""

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from bootstrap.node import imds as metadata_service
from bootstrap.node.aws import Aws, AwsError
from bootstrap.node.context import Context
from bootstrap.node.imds import Credentials, Metadata
from tests.bootstrap.node.conftest import BUCKET
from tests.bootstrap.node.stand_ins import Programs
from tests.fixtures.metadata import MetadataServer

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalr/XUtn+FEMI", "session/token==")


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps each request as it came."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requests.append(
                {"method": self.command, "path": self.path, "headers": dict(self.headers.items()), "body": body}
            )
            self.send_response(301 if self.path.startswith("/elsewhere/") else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PUT = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def signature_by_botocore(endpoint: str, request: dict[str, Any], service: str) -> str:
    """The Authorization header that botocore would give the same request at the same second."""
    sent = {name.lower(): value for name, value in request["headers"].items()}
    signed = sent["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    kept = {name: sent[name] for name in signed if name not in ("host", "x-amz-date", "x-amz-security-token")}
    copy = AWSRequest(request["method"], endpoint + request["path"], headers=kept, data=request["body"])
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    auth = kind(BotoCredentials(*CREDENTIALS), service, "us-east-1")
    copy.context["timestamp"] = sent["x-amz-date"]
    copy.context["payload_signing_enabled"] = True
    auth._modify_request_before_signing(copy)
    for name, value in kept.items():
        copy.headers.replace_header(name, value) if name in copy.headers else copy.headers.add_header(name, value)
    canonical = auth.canonical_request(copy)
    return str(auth.signature(auth.string_to_sign(copy, canonical), copy))


@pytest.mark.parametrize("service", ["s3", "secretsmanager"])
def test_requests_are_signed_as_botocore_signs_them(
    heard: tuple[str, list[dict[str, Any]]], tmp_path: Path, service: str
) -> None:
    endpoint, requests = heard
    aws = Aws("us-east-1", lambda: CREDENTIALS, endpoint)
    if service == "s3":
        (tmp_path / "file").write_text("content")
        aws.put_object("bucket", "jobs/lenet 1/a+b.log", tmp_path / "file", 10)
        aws.get_object("bucket", "kit/blobs/abc", tmp_path / "back", 10)
    else:
        aws.put_secret_value("name", 'va"l\\ue', 10)
    for request in requests:
        sent = request["headers"]["Authorization"].split("Signature=")[1]
        assert sent == signature_by_botocore(endpoint, request, service)
        assert request["headers"].get("X-Amz-Security-Token", request["headers"].get("x-amz-security-token"))
    assert len(requests) == (2 if service == "s3" else 1)


def test_objects_go_to_the_bucket_and_come_back(context: Context, tmp_path: Path, s3: Any) -> None:
    (tmp_path / "there").write_bytes(bytes(range(256)) * 1000)
    context.aws.put_object(BUCKET, "jobs/a b/log+1", tmp_path / "there", 10)
    assert s3.get_object(Bucket=BUCKET, Key="jobs/a b/log+1")["Body"].read() == (tmp_path / "there").read_bytes()
    context.aws.get_object(BUCKET, "jobs/a b/log+1", tmp_path / "deep/back", 10)
    assert (tmp_path / "deep/back").read_bytes() == (tmp_path / "there").read_bytes()


def test_a_log_that_grows_while_it_is_sent_is_taken(
    heard: tuple[str, list[dict[str, Any]]], tmp_path: Path, programs: Programs
) -> None:
    endpoint, requests = heard
    (tmp_path / "log").write_text("first\n")
    programs.add("curl", f'echo second >> "{tmp_path}/log"; exec {shutil.which("curl", path="/usr/bin:/bin")} "$@"')
    Aws("us-east-1", lambda: CREDENTIALS, endpoint).put_object("bucket", "log", tmp_path / "log", 10)
    (request,) = requests
    assert request["body"] == b"first\nsecond\n"
    # A digest of what it was before would be refused.
    assert request["headers"]["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_an_answer_from_another_region_is_no_success(heard: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    endpoint, _ = heard
    aws = Aws("us-east-1", lambda: CREDENTIALS, endpoint)
    (tmp_path / "log").write_text("line")
    with pytest.raises(AwsError) as refused:
        aws.put_object("elsewhere", "log", tmp_path / "log", 10)
    assert refused.value.status == 301
    with pytest.raises(AwsError):
        aws.get_object("elsewhere", "log", tmp_path / "back", 10)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("models", "https://models.s3.eu-west-1.amazonaws.com/jobs/1/log"),
        ("models.example.org", "https://s3.eu-west-1.amazonaws.com/models.example.org/jobs/1/log"),
    ],
)
def test_a_bucket_is_asked_by_a_name_that_its_certificate_has(
    tmp_path: Path, programs: Programs, bucket: str, url: str
) -> None:
    programs.add("curl", f'cat > "{tmp_path}/config"; echo "status 200" >&2')
    (tmp_path / "log").write_text("line")
    Aws("eu-west-1", lambda: CREDENTIALS).put_object(bucket, "jobs/1/log", tmp_path / "log", 10)
    assert f'url = "{url}"' in (tmp_path / "config").read_text()


def test_what_is_not_there_leaves_no_file(context: Context, tmp_path: Path) -> None:
    with pytest.raises(AwsError, match="NoSuchKey") as refused:
        context.aws.get_object(BUCKET, "nothing", tmp_path / "nothing", 10)
    assert refused.value.status == 404
    assert not (tmp_path / "nothing").exists()


def test_a_service_that_is_gone_is_named(tmp_path: Path) -> None:
    aws = Aws("us-east-1", lambda: CREDENTIALS, "http://127.0.0.1:9")
    with pytest.raises(AwsError, match="http://127.0.0.1:9/b/k: .*connect") as refused:
        aws.get_object("b", "k", tmp_path / "k", 5)
    assert refused.value.status == 0
    assert CREDENTIALS.secret_key not in str(refused.value)


def test_a_secret_has_no_value_then_one(context: Context, moto_endpoint: str) -> None:
    client = boto3.client("secretsmanager", endpoint_url=moto_endpoint, region_name="us-east-1")
    client.create_secret(Name="empty")
    assert context.aws.secret_value("empty", 10) is None
    context.aws.put_secret_value("empty", 'a"b\\c$d', 10)
    assert context.aws.secret_value("empty", 10) == 'a"b\\c$d'
    assert client.get_secret_value(SecretId="empty")["SecretString"] == 'a"b\\c$d'


def test_metadata_renews_a_token_that_counts_no_more(imds: MetadataServer) -> None:
    metadata = Metadata(imds.endpoint)
    assert metadata.fact("instance-id") == "i-0123456789abcdef0"
    imds.token = "token-2"
    assert metadata.fact("local-ipv4") == "127.0.0.1"
    assert metadata.tag("cos:deadline") is None
    assert metadata.credentials() == ("AKID", "S/K+", "TT==")
    with pytest.raises(OSError, match="knows no placement/region"):
        metadata.fact("placement/region")


def test_the_services_clock_counts(imds: MetadataServer) -> None:
    metadata = Metadata(imds.endpoint)
    imds.ahead = 3600.0
    assert metadata.spot_action() is None
    assert abs(metadata.now() - time.time() - 3600) < 10
    assert datetime.fromtimestamp(metadata.now(), UTC) > datetime.now(UTC)


def test_the_link_local_address_is_where_metadata_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    assert metadata_service.ENDPOINT == "http://169.254.169.254"
