import pytest

from bootstrap.ssh.host_keys import HostKey, known_hosts, parse_console_output

ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIJYlyAzp6AMJ1fgFmAjNjKVkVPpA7U2dOHVcQF0Xw4yb"
ECDSA = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBK7v0mVU="
CONSOLE = f"""
[   31.52] cloud-init[1650]: ci-info: no authorized SSH keys fingerprints found for user ubuntu.
<14>Nov 26 07:50:11 cloud-init: #############################################################
<14>Nov 26 07:50:11 cloud-init: -----BEGIN SSH HOST KEY FINGERPRINTS-----
<14>Nov 26 07:50:11 cloud-init: 256 SHA256:abc root@ip-10-0-0-5 (ED25519)
<14>Nov 26 07:50:11 cloud-init: -----END SSH HOST KEY FINGERPRINTS-----
-----BEGIN SSH HOST KEY KEYS-----
ecdsa-sha2-nistp256 {ECDSA} root@ip-10-0-0-5
<14>Nov 26 07:50:11 cloud-init: ssh-ed25519 {ED25519} root@ip-10-0-0-5
-----END SSH HOST KEY KEYS-----
[   31.60] cloud-init[1650]: Cloud-init finished
"""


def test_the_console_tells_the_keys() -> None:
    keys = (HostKey("ecdsa-sha2-nistp256", ECDSA), HostKey("ssh-ed25519", ED25519))
    assert parse_console_output(CONSOLE) == keys
    assert parse_console_output(CONSOLE.replace("\n", "\r\n")) == keys


def test_the_last_whole_block_of_the_console_counts() -> None:
    second = CONSOLE.replace(ED25519, ED25519[:-1] + "A")
    assert parse_console_output(CONSOLE + second)[1].text == ED25519[:-1] + "A"
    cut = second[: second.index("-----END SSH HOST KEY KEYS")]
    assert parse_console_output(CONSOLE + cut)[1].text == ED25519
    assert parse_console_output(cut) == ()


def test_known_hosts() -> None:
    key = HostKey("ssh-ed25519", ED25519)
    assert known_hosts("10.0.0.5", 22, (key,)) == f"10.0.0.5 ssh-ed25519 {ED25519}\n"
    assert known_hosts("10.0.0.5", 2222, (key,)) == f"[10.0.0.5]:2222 ssh-ed25519 {ED25519}\n"


def test_a_line_of_a_pub_file() -> None:
    assert HostKey.parse(f"ssh-ed25519 {ED25519} me@here\n") == HostKey("ssh-ed25519", ED25519)
    with pytest.raises(ValueError, match="is no public key"):
        HostKey.parse("nonsense")
