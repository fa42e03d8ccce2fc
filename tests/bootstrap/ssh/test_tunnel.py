import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from bootstrap.errors import LaunchError
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.tunnel import tunnel
from tests.fixtures.sshd import Server

PAGE = b"the master's page" * 10_000


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_comes_through_the_tunnel_and_the_port_closes_with_it(sshd: Server, page: int) -> None:
    with Connection(sshd.address()) as connection:
        with tunnel(connection, "127.0.0.1", page) as port:
            for _ in range(3):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    assert answer.read() == PAGE
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use(sshd: Server, page: int) -> None:
    refused = pytest.raises(LaunchError, match=f"Port {page} of this machine cannot be opened")
    with Connection(sshd.address()) as connection, refused, tunnel(connection, "127.0.0.1", page, page):
        pass


def test_nobody_listens_on_the_other_side(sshd: Server) -> None:
    with (
        Connection(sshd.address()) as connection,
        tunnel(connection, "127.0.0.1", 1) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as caller,
    ):
        assert caller.recv(1) == b""
