"""EC2's instance metadata service, version 2."""

import http.client
import json
import os
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit

ENDPOINT = "http://169.254.169.254"
_TOKEN_SECONDS = 6 * 3600
_ANSWER_SECONDS = 3.0


class Credentials(NamedTuple):
    """Temporary credentials of the instance's role."""

    access_key: str
    secret_key: str
    session_token: str


class Metadata:
    """What an instance can learn of itself.

    Args:
        endpoint: The service; by default AWS_EC2_METADATA_SERVICE_ENDPOINT's, else the link-local address.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        named = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        self._host = urlsplit(endpoint or named or ENDPOINT).netloc
        self._token = ""
        self._token_ends = 0.0
        self._ahead = 0.0

    def get(self, path: str) -> str | None:
        """The text at `/latest/<path>`, None where there is none.

        Raises:
            OSError: The service does not answer, or refuses.
        """
        if time.monotonic() > self._token_ends:
            self._renew_token()
        status, text = self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if status == 401:  # after a stop and a start the old token counts no more
            self._renew_token()
            status, text = self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if status == 404:
            return None
        if status != 200:
            raise OSError(f"the instance metadata service answers {path} by status {status}")
        return text

    def fact(self, name: str) -> str:
        """An entry of `meta-data` that every instance has, as `instance-id` and `local-ipv4`."""
        text = self.get(f"meta-data/{name}")
        if text is None:
            raise OSError(f"the instance metadata service knows no {name}")
        return text.strip()

    def tag(self, name: str) -> str | None:
        """The instance's tag of this name as it is now."""
        return self.get(f"meta-data/tags/instance/{quote(name, safe=':')}")

    def spot_action(self) -> str | None:
        """`terminate`, `stop` or `hibernate` where EC2 takes the instance back within two minutes."""
        notice = self.get("meta-data/spot/instance-action")
        return None if notice is None else str(json.loads(notice)["action"])

    def credentials(self) -> Credentials:
        """The role's credentials, good for an hour at least."""
        role = self.fact("iam/security-credentials/").splitlines()[0]
        given = json.loads(self.fact(f"iam/security-credentials/{role}"))
        return Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["Token"])

    def now(self) -> float:
        """Seconds since the epoch by the service's clock, as far as it was heard: a node's own may be wrong."""
        return time.time() + self._ahead

    def _renew_token(self) -> None:
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        status, text = self._ask("PUT", "api/token", wanted)
        if status != 200:
            raise OSError(f"the instance metadata service gives no token: status {status}")
        self._token = text
        self._token_ends = time.monotonic() + _TOKEN_SECONDS / 2

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """One request by http.client, which knows no proxies: the service is never behind one."""
        connection = http.client.HTTPConnection(self._host, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, f"/latest/{path}", headers=dict(headers))
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"the instance metadata service answers {path} by what is no HTTP: {error!r}") from error
        finally:
            connection.close()
        date = answer.getheader("Date")
        if date:
            self._ahead = parsedate_to_datetime(date).timestamp() - time.time()
        return answer.status, text
