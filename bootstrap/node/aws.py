"""The two AWS services a node needs, S3 and Secrets Manager, by curl, which signs requests itself.

A bare image has curl and no AWS library; and what a broken kit did to the Python environment must not keep a node from
saving its logs.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from bootstrap.node.imds import Credentials, Metadata

_CONNECT_SECONDS = 5
_REASON_BYTES = 300
_UNSIGNED = "UNSIGNED-PAYLOAD"  # S3's word for a body that the signature leaves out; TLS covers it


class AwsError(OSError):
    """A service refused, or did not answer in time.

    Attributes:
        status: The HTTP status, 0 where there was no answer.
        body: What the service said.
    """

    def __init__(self, message: str, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


def credentials_of(metadata: Metadata, environment: Mapping[str, str] = os.environ) -> Credentials:
    """The environment's credentials where it has some, else those of the instance's role."""
    if "AWS_ACCESS_KEY_ID" in environment:
        token = environment.get("AWS_SESSION_TOKEN", "")
        return Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], token)
    return metadata.credentials()


class Aws:
    """S3 and Secrets Manager of one region.

    Args:
        region: The AWS region.
        credentials: Called for each request: a role's credentials change every few hours.
        endpoint: A server that stands in for both, by default AWS_ENDPOINT_URL's; else AWS.
    """

    def __init__(self, region: str, credentials: Callable[[], Credentials], endpoint: str | None = None) -> None:
        self._region = region
        self._credentials = credentials
        self._endpoint = (endpoint or os.environ.get("AWS_ENDPOINT_URL", "")).rstrip("/")

    def get_object(self, bucket: str, key: str, path: Path, seconds: float) -> None:
        """Fetch an object into a file, which is written beside and renamed.

        Raises:
            AwsError: Not there, not allowed, or not here within the seconds.
        """
        beside = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = {"x-amz-content-sha256": _UNSIGNED}
        try:
            self._request("s3", self._object_url(bucket, key), headers, seconds, {"output": str(beside)})
            beside.replace(path)
        except AwsError as error:
            if not beside.exists():
                raise
            said = beside.read_bytes()[:_REASON_BYTES].decode(errors="replace")  # the refusal went to the file
            raise AwsError(f"{error} {' '.join(said.split())}", error.status, said) from None
        finally:
            beside.unlink(missing_ok=True)

    def put_object(self, bucket: str, key: str, path: Path, seconds: float) -> None:
        """Store a file as an object, a log that grows meanwhile as it was at the beginning.

        Raises:
            AwsError: Not allowed, or not there within the seconds.
        """
        headers = {"x-amz-content-sha256": _UNSIGNED}
        self._request("s3", self._object_url(bucket, key), headers, seconds, {"upload-file": str(path)})

    def secret_value(self, name: str, seconds: float) -> str | None:
        """A secret's value, None where it has none yet."""
        try:
            answer = self._secrets_manager("GetSecretValue", {"SecretId": name}, seconds)
        except AwsError as error:
            if "ResourceNotFoundException" in error.body:
                return None
            raise
        return str(json.loads(answer)["SecretString"])

    def put_secret_value(self, name: str, value: str, seconds: float) -> None:
        """Give a secret a value."""
        # The same value asked for twice is one version, whichever of the requests arrived.
        token = hashlib.sha256(value.encode()).hexdigest()[:64]
        wanted = {"SecretId": name, "SecretString": value, "ClientRequestToken": token}
        self._secrets_manager("PutSecretValue", wanted, seconds)

    def _secrets_manager(self, action: str, wanted: Mapping[str, str], seconds: float) -> str:
        url = f"{self._endpoint}/" if self._endpoint else f"https://secretsmanager.{self._region}.amazonaws.com/"
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": f"secretsmanager.{action}"}
        return self._request("secretsmanager", url, headers, seconds, {"data-raw": json.dumps(wanted)})

    def _object_url(self, bucket: str, key: str) -> str:
        if self._endpoint:
            return f"{self._endpoint}/{bucket}/{quote(key)}"
        if "." in bucket:  # S3's certificate is for names of one label
            return f"https://s3.{self._region}.amazonaws.com/{bucket}/{quote(key)}"
        return f"https://{bucket}.s3.{self._region}.amazonaws.com/{quote(key)}"

    def _request(
        self, service: str, url: str, headers: Mapping[str, str], seconds: float, more: Mapping[str, str]
    ) -> str:
        """One signed request; the body of the answer unless it goes to a file."""
        credentials = self._credentials()
        lines = [
            _option("url", url),
            _option("user", f"{credentials.access_key}:{credentials.secret_key}"),
            _option("aws-sigv4", f"aws:amz:{self._region}:{service}"),
            *(_option("header", f"{name}: {value}") for name, value in headers.items()),
            *(_option(name, value) for name, value in more.items()),
        ]
        if credentials.session_token:
            lines.append(_option("header", f"x-amz-security-token: {credentials.session_token}"))
        return _curl(url, "\n".join(lines), seconds)


def _option(name: str, value: str) -> str:
    """A line of curl's configuration."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name} = "{escaped}"'


def _curl(url: str, config: str, seconds: float) -> str:
    """Run curl with a configuration on its standard input: arguments can be read by everyone on the machine."""
    with tempfile.TemporaryFile("w+") as answer:
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--globoff", "--config", "-"]
        command += ["--connect-timeout", str(_CONNECT_SECONDS), "--max-time", f"{max(seconds, 1.0):.0f}"]
        command += ["--write-out", "%{stderr}status %{http_code}\n"]
        ended = subprocess.run(command, input=config, stdout=answer, stderr=subprocess.PIPE, text=True, check=False)
        answer.seek(0)
        body = answer.read()
    said = ended.stderr.strip().splitlines()
    status = next((int(line.split()[1]) for line in said if line.startswith("status ")), 0)
    if ended.returncode or not 200 <= status < 300:  # of a bucket in another region S3 answers 301
        reason = " ".join(line for line in said if not line.startswith("status "))
        raise AwsError(f"{url}: {reason} {' '.join(body[:_REASON_BYTES].split())}".strip(), status, body)
    return body
