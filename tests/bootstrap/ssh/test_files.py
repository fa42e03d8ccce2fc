import shutil
import sys
from pathlib import Path

import pytest

from bootstrap.errors import LaunchError
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.files import SshFiles
from tests.fixtures.sshd import Server, make_key

# Between us and OpenSSH's own server: a name in its answers becomes another one, as long.
LIAR = """
import os, subprocess, sys
with subprocess.Popen([sys.argv[1]], stdout=subprocess.PIPE) as server:
    while piece := os.read(server.stdout.fileno(), 65536):
        os.write(1, piece.replace(b"an_honest_name", os.fsencode(sys.argv[2])))
"""


@pytest.mark.parametrize("name", ["../../.profile", "/etc/profile.d"])
def test_a_node_that_lies_about_its_files(name: str, sshd: Server, tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "an_honest_name").write_text("x")
    (tmp_path / "liar.py").write_text(LIAR)
    server = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/libexec:/usr/lib/ssh")
    assert server is not None
    key = make_key(tmp_path / "key")
    with (sshd.folder / "authorized_keys").open("a") as keys:
        command = f"{sys.executable} {tmp_path}/liar.py {server} {name}"
        keys.write(f'command="{command}" {key.with_suffix(".pub").read_text()}')
    with Connection(sshd.address(key_file=key)) as connection, pytest.raises(LaunchError, match="is no file's name"):
        SshFiles(connection).tree(str(tmp_path / "result"))
