#!/usr/bin/env python3
"""The first process of a lab's instance: what firmware, cloud-init and systemd do there. It needs nothing but Python.

It ends by SIGTERM, in order, as by a shutdown; with it goes all that runs on the instance.
"""

import os
import pwd
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import systemctl
from cloud_init import cloud_init

METADATA = "http://169.254.169.254/latest"
CONSOLE = Path("/dev/console")
BOOTED = Path("/var/lib/cloud/booted")
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
USER = "ubuntu"
POLL_SECONDS = 0.2
STOP_SECONDS = 8.0


def main() -> int:
    if sys.argv[1:] == ["cloud-init"]:
        return configure()
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    let_people_in()
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-E", "/var/log/sshd.log"])
    subprocess.Popen([sys.executable, __file__, "cloud-init"])
    while not over:
        reap()
        systemctl.restart_dead()
        time.sleep(POLL_SECONDS)
    power_off()
    return 0


def let_people_in() -> None:
    """The host key, made at the first boot and told on the console; the key of the one who launched the instance."""
    if not HOST_KEY.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "root@lab", "-f", HOST_KEY], check=True)
    key = HOST_KEY.with_suffix(".pub").read_text()
    with CONSOLE.open("a") as console:
        console.write(f"-----BEGIN SSH HOST KEY KEYS-----\n{key}-----END SSH HOST KEY KEYS-----\n")
    person = pwd.getpwnam(USER)
    folder = Path(person.pw_dir, ".ssh")
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(ask("meta-data/public-keys/0/openssh-key") + "\n")
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, person.pw_uid, person.pw_gid)
    Path("/run/sshd").mkdir(exist_ok=True)


def ask(path: str) -> str:
    token = urllib.request.Request(f"{METADATA}/api/token", method="PUT")  # noqa: S310 - the instance's own service
    with urllib.request.urlopen(token, timeout=5.0) as answer:  # noqa: S310
        headers = {"X-aws-ec2-metadata-token": answer.read().decode()}
    with urllib.request.urlopen(urllib.request.Request(f"{METADATA}/{path}", headers=headers), timeout=5.0) as answer:  # noqa: S310
        return str(answer.read().decode())


def configure() -> int:
    """The user data; at another boot than the first, the units that are enabled."""
    is_first = not BOOTED.exists()
    BOOTED.parent.mkdir(parents=True, exist_ok=True)
    BOOTED.touch()
    code = cloud_init(ask("user-data"), Path("/"), os.environ, CONSOLE, is_first=is_first)
    if not is_first:
        systemctl.start_enabled()
    return code


def reap() -> None:
    """Take note of the ended, whose parents have ended too."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def power_off() -> None:
    """Ask all to end, and wait a little for them."""
    os.kill(-1, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.05)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main())
