"""Spark's secret: the master makes it up at its first boot, Secrets Manager keeps it, the others wait for it.

So it stands in no user data and in no state of Pulumi's.
"""

import logging
import secrets
import time

from bootstrap.node.aws import Aws
from bootstrap.node.plan import NodePlan

WAIT_SECONDS = 900.0  # a master that is still fetching its kit
_POLL_SECONDS = 5.0
_ASK_SECONDS = 20.0
_BYTES = 32

_log = logging.getLogger("secret")


def spark_secret(plan: NodePlan, aws: Aws, wait_seconds: float = WAIT_SECONDS) -> str:
    """The secret that Spark's daemons and applications share.

    Raises:
        TimeoutError: There was none within the limit; the sentence has the last refusal.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            value = aws.secret_value(plan.spark_secret, _ASK_SECONDS)
            if value is None and plan.role == "master":
                aws.put_secret_value(plan.spark_secret, secrets.token_hex(_BYTES), _ASK_SECONDS)
                # Asked for again: of two masters in a row the later one's value counts for all.
                value = aws.secret_value(plan.spark_secret, _ASK_SECONDS)
            reason = "the master has not put it there yet"
        except OSError as error:
            value, reason = None, str(error)
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {wait_seconds:g} s for Spark's secret {plan.spark_secret}, in vain: {reason}.")
        _log.info("waiting for Spark's secret: %s", reason)
        time.sleep(min(_POLL_SECONDS, wait_seconds))
