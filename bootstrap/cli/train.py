"""`cos train`, `test`, `features` and `submit`: a job is asked for, and watched unless it is to be left alone."""

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootstrap import flags as runtime
from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import LOCAL, ClusterName, Site, plain, site, verb
from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from bootstrap.jobs.record import JobRecord, JobSpec, Kind, LocalTarget, MasterTarget
    from bootstrap.specs import Request
    from bootstrap.uploads import Uploads

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

_MEANINGS: "Mapping[Kind, str]" = {
    "train": "Train a net by its solver.",
    "test": "Test a trained net.",
    "features": "Write what blobs of a net say of every record.",
}


@dataclass(frozen=True)
class _Place:
    """Where and how a job runs; the options that all four verbs have."""

    cluster: str
    master: str | None
    properties_file: Path | None
    spark_conf: Sequence[str]
    workers: int
    cores: int
    memory: str
    quick: bool
    name: str | None
    code: Sequence[Path]
    detach: bool
    dry_run: bool


_PLACE: dict[str, tuple[Any, Any]] = {
    "cluster": (ClusterName, LOCAL),
    "detach": (Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the job.")], False),
    "name": (Annotated[str | None, typer.Option(help="A name for the job. [default: the solver's]")], None),
    "dry_run": (Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")], False),
    "code": (
        Annotated[list[Path] | None, typer.Option(help="A Python file or package that the job imports.")],
        None,
    ),
    "spark_conf": (Annotated[list[str] | None, typer.Option(help="A Spark property as name=value.")], None),
    "workers": (Annotated[int, typer.Option(min=1, help="Workers of the local cluster.")], 2),
    "cores": (Annotated[int, typer.Option(min=1, help="Cores of each of its workers.")], 1),
    "memory": (Annotated[str, typer.Option(help="Memory of each of its workers.")], "2g"),
    "quick": (
        Annotated[bool, typer.Option("--quick", help="A local cluster that starts sooner, for short jobs.")],
        False,
    ),
    "master": (Annotated[str | None, typer.Option(help="A Spark master instead: local[2], spark://host:7077.")], None),
    "properties_file": (Annotated[Path | None, typer.Option(help="Spark properties for that master.")], None),
}


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for kind, meaning in _MEANINGS.items():
        verb(
            app,
            kind,
            help=f"{meaning}\n\nEach option has the runtime's own spelling too: -conf is --solver.",
            short_help=meaning,
            context_settings={"allow_extra_args": True},
        )(_runtime_verb(kind))
    verb(app, "submit", context_settings=PASS_THROUGH)(_with_place(_submit))


def _runtime_verb(kind: "Kind") -> Callable[..., None]:
    """The verb that runs the runtime."""

    def run(context: typer.Context, place: _Place, **given: Any) -> None:
        # Of a number, 0 is a value like any other.
        asked = {name: value for name, value in given.items() if value or (value == 0 and value is not False)}
        flags = asked | runtime.parse(context.args)
        if kind == "features" and "features" not in flags:
            raise LaunchError("cos features needs to know which blobs: give --blobs ip1,ip2.")
        flags.setdefault(kind, True)
        _launch(place, kind, flags=flags)

    return _with_place(run, _runtime_options(kind))


def _submit(
    context: typer.Context,
    place: _Place,
    program: Annotated[Path, typer.Argument(help="The Spark program, a Python file; its arguments follow.")],
) -> None:
    """Run a Spark program of your own."""
    _launch(place, "program", program=program, args=tuple(context.args))


def _runtime_options(kind: "Kind") -> list[inspect.Parameter]:
    """The runtime's flags as options, the one that the verb stands for left out."""
    return [
        inspect.Parameter(
            flag.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if flag.type is bool else None,
            annotation=Annotated[
                bool if flag.type is bool else flag.type | None,
                typer.Option(f"-{flag.name}", flag.long, help=flag.meaning, show_default=False),
            ],
        )
        for flag in runtime.FLAGS
        if flag.name != kind or kind == "features"
    ]


def _with_place(function: Callable[..., None], more: Sequence[inspect.Parameter] = ()) -> Callable[..., None]:
    """A function that takes `place`, as one with the options that make it."""

    def call(context: typer.Context, **given: Any) -> None:
        options = {name: given.pop(name) for name in _PLACE}
        place = _Place(**{**options, "code": options["code"] or (), "spark_conf": options["spark_conf"] or ()})
        function(context, place=place, **given)

    signature = inspect.signature(function, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name not in ("context", "place") and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _PLACE.items()
    ]
    context = signature.parameters["context"]
    call.__signature__ = signature.replace(parameters=[context, *own, *more, *options])  # type: ignore[attr-defined]
    call.__doc__ = function.__doc__
    return call


def _launch(place: _Place, kind: "Kind", **asked: Any) -> None:
    """Make the job's spec, enter it and see it through."""
    from bootstrap.specs import Request  # noqa: PLC0415

    with site(place.cluster) as there:
        conf = _properties(place.spark_conf)
        request = Request(kind, _target(place, there), name=place.name, code=tuple(place.code), conf=conf, **asked)
        if place.dry_run:
            _show_plan(request, there)
            return
        record = _enter(request, there)
        if place.detach:
            _tell_entered(record, there)
            return
        from bootstrap.cli.attach import see_through  # noqa: PLC0415

        see_through(there, record)


def _target(place: _Place, there: Site) -> "LocalTarget | MasterTarget":
    from bootstrap.jobs.record import LocalTarget, MasterTarget  # noqa: PLC0415

    if there.cluster is not None:
        if place.master or place.properties_file:
            raise LaunchError(
                "--cluster brings its own master and properties: leave --master and --properties-file out."
            )
        return there.cluster.target
    if place.master is None:
        if place.properties_file:
            raise LaunchError("--properties-file needs to be told the --master that it is for.")
        return LocalTarget(workers=place.workers, cores=place.cores, memory=place.memory, quick=place.quick)
    properties = place.properties_file
    return MasterTarget(master=place.master, properties_file=str(properties.absolute()) if properties else None)


def _properties(given: Sequence[str]) -> Mapping[str, str]:
    """`name=value` pairs as a dictionary."""
    properties = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise LaunchError(f"--spark-conf {pair!r} is no property: give name=value.")
        properties[name] = value
    return properties


def _enter(request: "Request", there: Site) -> "JobRecord":
    """Upload what the job needs, and enter it."""
    from bootstrap import specs  # noqa: PLC0415

    if there.cluster is None:
        return there.jobs.submit(specs.here(request))
    from bootstrap.cli.nodes import upload  # noqa: PLC0415
    from bootstrap.uploads import Uploads  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="cos-") as scratch:
        uploads = Uploads(f"{there.cluster.root}/files", Path(scratch))
        spec = specs.there(request, uploads)
        upload(there, uploads)
    return there.jobs.submit(spec)


def _show_plan(request: "Request", there: Site) -> None:
    """Say what `_enter` would do."""
    from bootstrap import specs  # noqa: PLC0415
    from bootstrap.uploads import Uploads  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="cos-") as scratch:
        uploads = Uploads(f"{there.cluster.root}/files" if there.cluster else "", Path(scratch))
        spec = specs.there(request, uploads) if there.cluster else specs.here(request)
        if terminal.json:
            terminal.data({**spec.model_dump(mode="json", exclude={"token"}), "uploads": uploads.files})
            return
        terminal.table(_plan_rows(spec, there, uploads))


def _plan_rows(spec: "JobSpec", there: Site, uploads: "Uploads") -> list[tuple[str, str]]:
    from bootstrap.jobs.record import LocalTarget  # noqa: PLC0415

    target = spec.target
    if isinstance(target, LocalTarget):
        size = f"workers: {target.workers}, cores each: {target.cores}, memory each: {target.memory}"
        spark = f"a cluster for this job ({size})"
    else:
        spark = target.master
    rows = [
        ("job", f"{spec.name} ({spec.kind}) on {there.host.name}"),
        ("spark", spark),
        ("runs", f"{spec.program or 'cos_runtime/main.py'} {' '.join(spec.args)}"),
    ]
    rows += [("upload", f"{path} -> {place}") for path, place in uploads.files.items()]
    return rows + [("writes", result.path) for result in spec.results]


def _tell_entered(record: "JobRecord", there: Site) -> None:
    if terminal.json:
        terminal.data(plain(record))
        return
    terminal.say(record.id)
    where = "" if there.cluster is None else f" --cluster {there.name}"
    terminal.note(f"Job {record.id} ({record.name}) is {record.state}: `cos attach {record.id}{where}` watches it.")
