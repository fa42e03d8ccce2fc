"""From what a person asks for to a job's spec, for this machine and for another one."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap.errors import LaunchError
from bootstrap.flags import FLAGS, Flags, arguments
from bootstrap.jobs.client import new_token
from bootstrap.jobs.places import METRICS, REPORTS
from bootstrap.jobs.record import WORK, JobSpec, Kind, LocalTarget, MasterTarget, Result
from bootstrap.uploads import Uploads, listed


@dataclass(frozen=True)
class Request:
    """What is asked for, with this machine's paths.

    Attributes:
        kind: what the job does.
        target: where Spark is.
        flags: the runtime's.
        name: for people; None makes one of the solver's or program's file.
        program: a script of one's own.
        args: of the script.
        code: Python files and packages that the job imports.
        conf: Spark properties.
    """

    kind: Kind
    target: LocalTarget | MasterTarget
    flags: Flags = field(default_factory=dict)
    name: str | None = None
    program: Path | None = None
    args: tuple[str, ...] = ()
    code: tuple[Path, ...] = ()
    conf: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name or (self.program or Path(str(self.flags.get("conf", self.kind)))).stem

    @property
    def is_training(self) -> bool:
        """Whether the model is written, and not read."""
        return bool(self.flags.get("train"))


def here(request: Request) -> JobSpec:
    """The spec for this machine: every path stays what it is."""
    check(request)
    flags = program_flags(request) if request.program else {**request.flags}
    if request.is_training and isinstance(request.target, LocalTarget):
        flags.setdefault("clusterSize", str(request.target.workers))  # the cluster is there for this job alone
    outputs = (_path(flags, "model") if flags.get("train") else None, _path(flags, "output"))
    results = [_local(path) for path in outputs]
    found = [result for result in results if result]
    metrics = None
    if flags.get("train") and (model := _path(flags, "model")):
        metrics = os.path.join(os.path.dirname(model), METRICS)
        found += [Result(path=path, place=path) for path in _beside(model)]
    return _spec(
        request,
        request.args if request.program else tuple(arguments(flags)),
        folder=str(Path.cwd()),
        program=str(request.program.absolute()) if request.program else None,
        code=tuple(str(path.absolute()) for path in request.code),
        results=tuple(found),
        metrics=metrics,
    )


def there(request: Request, uploads: Uploads) -> JobSpec:
    """The spec for another machine: what the job reads is uploaded, what it writes goes to its own directory."""
    check(request)
    flags = dict(request.flags)
    results = []
    if "conf" in flags:
        flags["conf"] = uploads.add_solver(Path(str(request.flags["conf"])))
    for flag in FLAGS:
        path = _path(request.flags, flag.name) if flag.role or flag.name == "model" else None
        if path is None or _is_url(path):
            continue
        if flag.role == "output" or (flag.name == "model" and request.is_training):
            flags[flag.name] = f"{WORK}/{flag.name}/{posixpath.basename(path)}"
            results.append(Result(path=f"{WORK}/{flag.name}", place=os.path.dirname(path)))
        else:
            flags[flag.name] = uploads.add(Path(path), f"-{flag.name}")
    if request.flags.get("weights"):
        names = listed(str(request.flags["weights"]))
        flags["weights"] = ",".join(_sent(name, request.flags, uploads) for name in names)
    if request.is_training and "model" not in flags:
        raise LaunchError("--model is missing: name the file for the trained weights, which `cos fetch` brings.")
    is_here = str(flags.get("model", "")).startswith(WORK)
    program = uploads.add(request.program, "The program") if request.program else None
    code = tuple(uploads.add(path, "--code") for path in request.code)
    return _spec(
        request,
        request.args if request.program else tuple(arguments(flags)),
        folder=WORK,
        program=program,
        code=code,
        files=tuple(uploads.files.values()),
        results=tuple(results),
        metrics=f"{WORK}/model/{METRICS}" if request.is_training and is_here else None,
    )


def program_flags(request: Request) -> dict[str, str | bool]:
    """The runtime's flags among a program's arguments, which by CaffeOnSpark's custom has them too.

    One that names a solver and a model is taken to train it.
    """
    words = request.args
    named = {flag.name: words[words.index(f"-{flag.name}") + 1] for flag in FLAGS if f"-{flag.name}" in words[:-1]}
    return {**named, "train": True} if {"conf", "model"} <= named.keys() else {}


def check(request: Request) -> None:
    """Refuse what can be found wrong without the runtime."""
    for path in (*request.code, *([request.program] if request.program else [])):
        if not path.exists():
            raise LaunchError(f"{path} is not there: check the path.")
    if request.program:
        return
    conf = str(request.flags.get("conf", ""))
    if not conf:
        raise LaunchError("--solver is missing: name the solver's prototxt file.")
    if not _is_url(conf) and not Path(conf).is_file():
        raise LaunchError(f"The solver {conf} is not there: check the path.")


def _spec(request: Request, args: Sequence[str], **facts: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "token": new_token(),
            "name": request.title,
            "kind": request.kind,
            "args": tuple(args),
            "target": request.target,
            "conf": dict(request.conf),
            **facts,
        }
    )


def _path(flags: Flags, name: str) -> str | None:
    """The absolute path of what a flag names: the runtime counts from the solver's folder."""
    value = str(flags.get(name) or "")
    if not value or _is_url(value):
        return value or None
    folder = os.path.dirname(os.path.abspath(str(flags.get("conf", "")).removeprefix("file:")))
    return os.path.normpath(os.path.join(folder, value.removeprefix("file:")))


def _sent(weights: str, flags: Flags, uploads: Uploads) -> str:
    """The place of a weights file there."""
    path = str(_path({**flags, "weights": weights}, "weights"))
    return path if _is_url(path) else uploads.add(Path(path), "-weights")


def _local(path: str | None) -> Result | None:
    return Result(path=path, place=path) if path and not _is_url(path) else None


def _beside(model: str) -> list[str]:
    """The reports of a training job."""
    return [] if _is_url(model) else [os.path.join(os.path.dirname(model), name) for name in REPORTS]


def _is_url(path: str) -> bool:
    return "://" in path and not path.startswith("file:")
