"""`cos jobs`, `logs`, `attach`, `cancel`, `fetch` and `retry`: jobs that are there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import LOCAL, ClusterName, JobName, Site, plain, site, verb
from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.jobs.record import JobRecord, Result

_TAIL_BYTES = 256 * 1024


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "jobs")(_jobs)
    verb(app, "logs")(_logs)
    verb(app, "attach")(_attach)
    verb(app, "cancel")(_cancel)
    verb(app, "fetch")(_fetch)
    verb(app, "retry")(_retry)


def _jobs(cluster: ClusterName = LOCAL) -> None:
    """List the jobs, the last one first."""
    with site(cluster) as there:
        records = list(reversed(there.jobs.all()))
    if terminal.json:
        terminal.data([plain(record) for record in records])
    elif terminal.quiet:
        terminal.table([(record.id,) for record in records])
    elif not records:
        terminal.note("No jobs yet: `cos train` makes one.")
    else:
        terminal.table([_row(record) for record in records], ("JOB", "NAME", "KIND", "STATE", "TIME", ""))


def _logs(
    job: JobName = None,
    *,
    cluster: ClusterName = LOCAL,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=1, help="The last lines alone.")] = None,
) -> None:
    """Print what a job says, with its Spark's warnings."""
    from bootstrap.cli.attach import Watch  # noqa: PLC0415
    from bootstrap.follow import follow as stream  # noqa: PLC0415

    with site(cluster) as there:
        record = there.jobs.find(job)
        path, offset = there.jobs.log(record.id), 0
        if lines:
            offset, _ = last_lines(there, path, lines)
        watch = Watch(there.jobs, record)
        for piece in stream(there.host, path, watch.is_over if follow else lambda: True, offset=offset):
            terminal.raw(piece)


def last_lines(there: Site, path: str, count: int) -> tuple[int, bytes]:
    """The end of a file on the site's host, and at which byte it begins."""
    from bootstrap.transfer import again  # noqa: PLC0415

    files = there.host.files
    size = again()(files.size, path)
    if not size:
        return 0, b""
    start = max(0, size - _TAIL_BYTES)
    end = again()(files.read, path, start)
    tail = b"".join(end.splitlines(keepends=True)[-count:])
    return start + len(end) - len(tail), tail


def _attach(job: JobName = None, *, cluster: ClusterName = LOCAL) -> None:
    """Watch a job until it ends; Ctrl-C leaves it alone."""
    from bootstrap.cli.attach import see_through  # noqa: PLC0415

    with site(cluster) as there:
        see_through(there, there.jobs.find(job))


def _cancel(job: JobName = None, *, cluster: ClusterName = LOCAL) -> None:
    """End a job; its last snapshot stays."""
    with site(cluster) as there:
        record = there.jobs.find(job)
        if not record.is_over:
            terminal.note(f"Ending job {record.id} ({record.name}) ...")
        _tell(there.jobs.cancel(record.id))


def _retry(
    job: JobName = None,
    *,
    cluster: ClusterName = LOCAL,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the job.")] = False,
) -> None:
    """Run a job again, from its last snapshot if it has one."""
    from bootstrap.cli.attach import see_through  # noqa: PLC0415

    with site(cluster) as there:
        again = there.jobs.retry(there.jobs.find(job))
        if detach:
            _tell(again)
        else:
            see_through(there, again)


def _fetch(
    job: JobName = None,
    *,
    cluster: ClusterName = LOCAL,
    to: Annotated[Path | None, typer.Option(help="A folder for all of it. [default: where the job was told]")] = None,
) -> None:
    """Bring what a job wrote: the model, its snapshots and reports, features."""
    with site(cluster) as there:
        record = there.jobs.find(job)
        files = fetch(there, record, to)
    if terminal.json:
        terminal.data(files)
    else:
        for path in files:
            terminal.say(path)


def fetch(there: Site, record: "JobRecord", to: Path | None = None) -> list[str]:
    """Copy a job's results here and return their places.

    A cluster's job can write what it likes into its record and beside its results, and is trusted in neither: without
    `to`, what it was told to write goes where it was told to, and that is known from when it was asked for.

    Raises:
        LaunchError: There is nothing to bring.
    """
    from bootstrap.jobs.places import kept  # noqa: PLC0415
    from bootstrap.local_host import LocalFiles  # noqa: PLC0415
    from bootstrap.transfer import copy  # noqa: PLC0415

    asked = kept(record) if there.cluster and to is None else None
    if there.cluster and to is None and asked is None:
        to = Path(f"{there.name}-job-{record.id}")
        terminal.note(f"Job {record.id} was not asked for from here: what it wrote goes into the folder {to}.")
    found = [(result, name, size) for result in record.results for name, size in _tree(there, result.path).items()]
    wanted = [(result, name, size) for result, name, size in found if asked is None or asked.have(result.place, name)]
    if not found:
        raise LaunchError(
            f"Job {record.id} has written nothing to bring: it {record.state}, see `cos logs {record.id}`."
        )
    if len(wanted) < len(found):
        others = f"{len(found) - len(wanted)} of its files, which job {record.id} was not told to write"
        terminal.note(f"Left there: {others}; `cos fetch {record.id} --cluster {there.name} --to FOLDER` brings all.")
    places = {_join(result.path, name): _join(_place(result, to), name) for result, name, _ in wanted}
    there_and_here_differ = {path: place for path, place in places.items() if there.cluster or path != place}
    with terminal.progress(f"fetching {record.name}", sum(size for _, _, size in wanted)) as told:
        copy(there.host.files, LocalFiles(), there_and_here_differ, told=told)
    return list(places.values())


def _tree(there: Site, path: str) -> "Mapping[str, int]":
    """The files of a result; none where it is not written yet, or never was."""
    from bootstrap.transfer import again  # noqa: PLC0415

    try:
        return again()(there.host.files.tree, path)
    except FileNotFoundError:
        return {}


def _place(result: "Result", to: Path | None) -> str:
    # Neither `..` nor `.ssh`: with a folder for all of it, the name in it may be of the job's making.
    return result.place if to is None else str(to / Path(result.place).name.lstrip("."))


def _join(folder: str, name: str) -> str:
    return os.path.join(folder, name) if name else folder


def _tell(record: "JobRecord") -> None:
    if terminal.json:
        terminal.data(plain(record))
    else:
        terminal.say(f"Job {record.id} ({record.name}) is {record.state}.")


def _row(record: "JobRecord") -> tuple[str, ...]:
    from cos_runtime.engine.report.wording import duration  # noqa: PLC0415

    time = "" if record.seconds is None else duration(record.seconds)
    return record.id, record.name, record.kind, record.state, time, record.message
