"""A lab as tests and people use it: made, worked in from its laptop, and gone without a trace."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bootstrap import kit
from tests.fixtures.pulumi_aws.kinds import Cloud
from tests.fixtures.pulumi_aws.ledger import Ledger
from tests.fixtures.pulumi_engine import find_pulumi, image
from tests.lab import network
from tests.lab.cloud import ENDPOINT
from tests.lab.image import PATH

REPOSITORY = Path(__file__).resolve().parents[2]
_PLUGIN = REPOSITORY / "tests/fixtures/pulumi_aws"
_PREFIX = "cos-lab-"
_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_SECONDS = 300.0


class Lab:
    """A lab; it is there within a `with` block.

    Args:
        folder: For disks, consoles and the laptop's home.

    Attributes:
        prefix: Of the names of its namespaces.
        home: The laptop's home directory.
        ledger: What Pulumi's provider was asked, and is to fail.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"{_PREFIX}{os.getpid()}"
        self.home = folder / "laptop"
        (folder / "ledger").mkdir(parents=True)
        self.ledger = Ledger(folder / "ledger")
        self._cloud: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        _remove_those_of_the_dead()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._cloud is not None:
            assert self._cloud.stdin is not None
            self._cloud.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._cloud.wait(_STOP_SECONDS)
            self._cloud.kill()
            self._cloud.wait()
        for namespace in network.names(self.prefix):
            network.remove(namespace)

    def _start(self) -> None:
        pulumi = find_pulumi()
        if pulumi is None:
            raise RuntimeError("there is no pulumi on PATH, and none was built: run `make pulumi`")
        self.home.mkdir()
        (self.home / ".ssh").mkdir(mode=0o700)
        network.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", f"{self.home}/.ssh/id_ed25519")
        wheel = self._kit()
        network.make_bridge(self.prefix)
        for name, address in (("laptop", network.LAPTOP), ("stranger", network.STRANGER)):
            network.attach(f"{self.prefix}-{name}", self.prefix, f"{name}0", [address], None)
        with network.entered(self.prefix):
            self._cloud = subprocess.Popen(
                ["unshare", "--mount", sys.executable, "-m", "tests.lab.cloud", self.prefix, self.folder, wheel],
                env={**self.environment, "PYTHONPATH": str(REPOSITORY)},
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(self.folder / "cloud.err").open("wb"),
                text=True,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        assert self._cloud is not None
        assert self._cloud.stdout is not None
        timer = threading.Timer(_START_SECONDS, self._cloud.kill)
        timer.start()
        said = self._cloud.stdout.readline()
        timer.cancel()
        if said != "ready\n":
            raise RuntimeError(f"the lab did not start:\n{(self.folder / 'cloud.err').read_text()}")

    def _kit(self) -> Path:
        """A kit of our own wheel alone; the image has the packages."""
        packages, kit._fill = kit._fill, lambda *_: None  # type: ignore[assignment]
        try:
            here = f"{sys.version_info.major}.{sys.version_info.minor}"
            kit.build(self.folder / "kit", python=here, machine=os.uname().machine)
        finally:
            kit._fill = packages
        return next((self.folder / "kit/wheelhouse").glob("cos-*.whl"))

    @property
    def environment(self) -> dict[str, str]:
        """The variables of whoever works on the laptop."""
        pulumi = find_pulumi()
        return {
            "PATH": os.pathsep.join([str(_PLUGIN), str(pulumi), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.home),
            "COS_HOME": str(self.home / ".cos"),
            "COS_PYTHON": sys.executable,
            "COS_PROVIDER_LEDGER": str(self.folder / "ledger"),
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": ENDPOINT,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PULUMI_CONFIG_PASSPHRASE": "lab",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
        }

    def laptop(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread be on the laptop: what it asks and starts."""
        return network.entered(f"{self.prefix}-laptop")

    @property
    def cloud(self) -> Cloud:
        """The account, for who is on the laptop."""
        return Cloud(ENDPOINT, "us-east-1")

    def settings(self) -> list[str]:
        """What `cos init` is told of the lab."""
        with self.laptop():
            ami = image(self.cloud)
        key = f"{self.home}/.ssh/id_ed25519.pub"
        given = [f"ami={ami}", f"kit_dir={self.folder}/kit"]
        return ["--ssh-from", f"{network.LAPTOP}/32", "--ssh-key", key, *(p for s in given for p in ("--set", s))]

    def cos(self, *arguments: str, seconds: float = _SECONDS) -> "subprocess.CompletedProcess[str]":
        """Run `cos` on the laptop, to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `cos` on the laptop, in a group of its own."""
        with self.laptop():
            return subprocess.Popen(
                [sys.executable, "-m", "bootstrap.cli", *arguments],
                cwd=self.home,
                env={**self.environment, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def order(self, **orders: object) -> None:
        """Let something happen that no API asks for: `cloud.Orders` has what can."""
        path = self.folder / "orders.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({**before, **orders}))
        beside.replace(path)

    def machines(self) -> Mapping[str, Mapping[str, Any]]:
        """What the hypervisor has, by instance: `pid` of its first process, `namespace`."""
        path = self.folder / "machines.json"
        found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def on(self, instance: str, *command: str, seconds: float = 60.0) -> str:
        """Run a command on an instance as root, and return what it says."""
        pid = self.machines()[instance]["pid"]
        inside = ["nsenter", "--all", "--root", "--wd", "--target", str(pid), "--", *command]
        environment = {"PATH": PATH}  # this machine's leads to programs, and to folders, that an instance may lack
        return network.run(*inside, environment=environment, seconds=seconds)

    def console(self, instance: str) -> str:
        """What an instance has printed."""
        return (self.folder / "instances" / instance / "console").read_text(errors="replace")


def _remove_those_of_the_dead() -> None:
    """A process that was killed leaves the names of its lab's namespaces, if nothing else."""
    for namespace in network.names(_PREFIX):
        maker = namespace.removeprefix(_PREFIX).split("-")[0]
        if not Path("/proc", maker).exists():
            network.remove(namespace)
