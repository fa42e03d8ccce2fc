"""Options of the whole test suite, and what every test may take for granted."""

import os
import signal

import pytest

pytest_plugins = ["tests.fixtures.mnist", "tests.fixtures.jobs", "tests.fixtures.spark"]

# A cloud account, a Spark or a Hadoop that the developer's shell points to: no test may reach them.
_FOREIGN = ("AWS_", "PULUMI_", "SPARK_", "PYSPARK_", "HADOOP_", "YARN_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        default=None,
        metavar="DIR",
        help="run the reference tests over this folder's cases instead of the repository's own",
    )


def pytest_configure() -> None:
    # A shell has its background jobs ignore Ctrl-C, and so would each program that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )
