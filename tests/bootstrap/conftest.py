from tests.fixtures.cluster import local_cluster
from tests.fixtures.command import cos_home
from tests.fixtures.hosts import host
from tests.fixtures.sshd import sshd, wire

__all__ = ["cos_home", "host", "local_cluster", "sshd", "wire"]
