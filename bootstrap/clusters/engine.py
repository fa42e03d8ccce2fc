"""Pulumi's Automation API: the cluster's program in this process, by Pulumi's command line, which has to be there."""

import fcntl
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pulumi import automation
from pulumi.automation.errors import ConcurrentUpdateError, StackNotFoundError
from pulumi.runtime import run_in_stack

from bootstrap import home
from bootstrap.clusters import config, interrupted
from bootstrap.errors import FailedError, LaunchError
from bootstrap.teardown import Place
from infra.capacity import is_capacity_error
from infra.program import main as program

OnEvent = Callable[[automation.EngineEvent], None]

_BUILT = Path(__file__).resolve().parents[2] / ".pulumi-cli" / "bin"
_ERROR = re.compile(r"^\s*error: (.+)$", re.MULTILINE)
_POLL_SECONDS = 0.2
_END_SECONDS = 900.0
_INSTANCE = "aws:ec2/instance:Instance"
_ENDING = (automation.OpType.DELETE, automation.OpType.DELETE_REPLACED, automation.OpType.REPLACE)


class EngineError(FailedError):
    """Pulumi ended with an error; what it made is in its state, and the same verb again goes on from there."""


class Preview(NamedTuple):
    """What `up` would do: counts by operation, and the names of the nodes that it would replace or remove."""

    changes: Mapping[str, int]
    ending: tuple[str, ...]


def find_command() -> str:
    """The folder of Pulumi's command line: that of PATH, or the one that `make pulumi` built.

    Raises:
        LaunchError: There is none.
    """
    found = shutil.which("pulumi") or shutil.which("pulumi", path=str(_BUILT))
    if found is None:
        raise LaunchError(
            "There is no `pulumi` on PATH, which makes and ends clusters: install it (pulumi.com/docs/install), or run "
            "`make pulumi`; to end a cluster without it run `python -m bootstrap.teardown NAME`."
        )
    return str(Path(found).parent)


class Engine:
    """The stack of one cluster; made where it is missing.

    Its state is below the launcher's home, or where PULUMI_BACKEND_URL says.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        _pass_over_unfinished_programs()
        # The Automation API looks for the command line on this process's PATH.
        os.environ["PATH"] = os.pathsep.join([find_command(), os.environ.get("PATH", "")])
        state = home.home() / "state"
        state.mkdir(parents=True, exist_ok=True)
        interrupted.wait_for_engine(state, name)
        self._is_mended = interrupted.mend(state, name)
        backend = os.environ.get("PULUMI_BACKEND_URL") or f"file://{state}"
        settings = automation.ProjectSettings(name="cos", runtime="python", backend=automation.ProjectBackend(backend))
        options = automation.LocalWorkspaceOptions(
            work_dir=str(config.folder(name)),
            project_settings=settings,
            env_vars=_passphrase(state),
            secrets_provider="passphrase",
        )
        with _told():
            self._stack = automation.create_or_select_stack(name, project_name="cos", program=program, opts=options)

    def up(self, on_event: OnEvent, *, refresh: bool) -> Mapping[str, Any]:
        """Make or change the cluster; its outputs.

        Args:
            on_event: Told each step.
            refresh: Whether AWS is asked first for what is there.

        Raises:
            EngineError: A resource could not be had.
        """
        result = self._run(lambda: self._stack.up(on_event=on_event, refresh=refresh, color="never"))
        return {key: output.value for key, output in result.outputs.items()}

    def preview(self) -> Preview:
        """What `up` would do now."""
        ending: dict[str, None] = {}

        def note(event: automation.EngineEvent) -> None:
            step = event.resource_pre_event and event.resource_pre_event.metadata
            if step and step.type == _INSTANCE and step.op in _ENDING:
                ending[step.urn.rsplit("::", 1)[1].removeprefix(f"{self.name}-")] = None

        result = self._run(lambda: self._stack.preview(refresh=self.is_used, on_event=note))
        counts = {automation.OpType(operation).value: count for operation, count in result.change_summary.items()}
        return Preview(counts, tuple(ending))

    def destroy(self, on_event: OnEvent) -> None:
        """End the cluster and forget its state; what had ended by itself is no error."""
        self._run(lambda: self._stack.destroy(on_event=on_event, refresh=True, color="never"))
        with _told():
            self._stack.workspace.remove_stack(self.name, preserve_config=True)

    @property
    def is_used(self) -> bool:
        """Whether the state has anything."""
        with _told():
            deployment = self._stack.export_stack().deployment or {}
            return bool(deployment.get("resources") or deployment.get("pending_operations"))

    def settle(self, where: Place, on_change: Callable[[str], None]) -> None:
        """Where an operation was killed: remove what it made and could not note, so that nothing is there twice.

        Raises:
            LaunchError: It was not killed, but goes on elsewhere.
        """
        with _told():
            if not (self._is_mended or (self._stack.export_stack().deployment or {}).get("pending_operations")):
                return
            self.require_free()
            state = self._stack.export_stack()
            deployment = dict(state.deployment or {})
            interrupted.clear(where, self.name, deployment, on_change)
            deployment.pop("pending_operations", None)
            self._stack.import_stack(automation.Deployment(version=state.version, deployment=deployment))
        self._is_mended = False

    def require_free(self) -> None:
        """Have nobody else at the stack: a refresh wants Pulumi's lock, though it finds nothing to refresh.

        Raises:
            LaunchError: Somebody is.
        """
        with suppress(EngineError):
            self._run(lambda: self._stack.refresh(target=[f"urn:pulumi:{self.name}::cos::cos:none::none"]))

    def _run(self, operation: Callable[[], Any]) -> Any:
        """Run an operation; the lock goes that a killed one of this machine left.

        Raises:
            LaunchError: The lock is another's: a backend may be shared, and `alone` holds on this machine only.
        """
        with _told():
            try:
                return _interruptible(operation)
            except ConcurrentUpdateError as error:
                others = interrupted.others(str(error))
                if others:
                    raise LaunchError(
                        f"{' and '.join(others)} works on {self.name} by Pulumi: wait until it is done; if you are "
                        f"sure that it is dead, `pulumi cancel {self.name} --cwd {config.folder(self.name)}` breaks "
                        "its lock."
                    ) from None
                self._stack.cancel()
                return _interruptible(operation)


@cache
def _pass_over_unfinished_programs() -> None:
    """Keep off the terminal what Python says of a program's coroutine that Pulumi leaves when a resource has failed."""
    tell = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if getattr(unraisable.object, "__qualname__", "") != run_in_stack.__qualname__:
            tell(unraisable)

    sys.unraisablehook = hook


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a cluster, so that no second `cos` changes it meanwhile.

    Raises:
        LaunchError: One does.
    """
    config.folder(name).mkdir(parents=True, exist_ok=True)
    with (config.folder(name) / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LaunchError(
                f"Another cos (process {lock.read() or 'unknown'}) works on {name}: wait until it is done."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _interruptible(operation: Callable[[], Any]) -> Any:
    """Run an operation on a thread. Ctrl-C reaches Pulumi too, which ends what it is at: it is waited for."""
    done: dict[str, Any] = {}

    def work() -> None:
        try:
            done["result"] = operation()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            done["error"] = error

    thread = threading.Thread(target=work, name="pulumi", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    except KeyboardInterrupt:
        thread.join(_END_SECONDS)
        raise
    if "error" in done:
        raise done["error"]
    return done["result"]


def _passphrase(state: Path) -> dict[str, str]:
    """Pulumi wants one for secrets, of which our stacks have none: one is made up unless the person has their own."""
    if "PULUMI_CONFIG_PASSPHRASE" in os.environ or "PULUMI_CONFIG_PASSPHRASE_FILE" in os.environ:
        return {}
    path = state / "passphrase"
    if not path.is_file():
        beside = path.with_name(f".passphrase.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        beside.replace(path)
    return {"PULUMI_CONFIG_PASSPHRASE_FILE": str(path)}


@contextmanager
def _told() -> Iterator[None]:
    """Pulumi's errors as a sentence of ours, with the resource's own error in it."""
    try:
        yield
    except StackNotFoundError:
        raise EngineError("Pulumi has no such stack: run `cos up`.") from None
    except automation.CommandError as error:
        raise EngineError(_sentence(str(error))) from None
    except automation.InvalidVersionError as error:
        raise LaunchError(
            f"The `pulumi` on PATH is too old ({error}): install a newer one, or `make pulumi`."
        ) from None


def _sentence(text: str) -> str:
    """The first error that is not a mere summary, and what to do."""
    errors = [line for line in _ERROR.findall(text) if not line.startswith(("update failed", "preview failed"))]
    said = (errors or [text.strip().splitlines()[-1]])[0].strip().rstrip(".")
    if "decrypt" in text or "incorrect passphrase" in text:
        return f"Pulumi cannot read the stack's secrets ({said}): set PULUMI_CONFIG_PASSPHRASE as it was."
    if is_capacity_error(text):
        return str(said)
    return f"{said}: mend that and run the same again; what is there already is kept."
