"""`cos init`, `plan`, `up`, `resize`, `down`: clusters of AWS made and ended."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import LOCAL, ClusterName, site, verb
from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from bootstrap.clusters.progress import Progress
    from bootstrap.clusters.up import Prepared

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[bool, typer.Option("--force", help="Though a job runs.")]
Wait = Annotated[str, typer.Option("--wait", help="How long to wait for the nodes to be ready.")]
INTERRUPTED = 130
_NAMED = 5  # nodes in a question
MASTER_SECONDS = 15.0  # a master that is not reached has told the bucket whether it is used


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "init")(_init)
    verb(app, "plan")(_plan)
    verb(app, "up")(_up)
    verb(app, "resize")(_resize)
    verb(app, "down")(_down)


def minutes(text: str) -> int:
    """A length of time as a person writes it.

    Raises:
        LaunchError: It is none, or nothing.
    """
    found = _length(text)
    if not found:
        raise LaunchError(f"{text!r} is no time at all: write it as 90m, 8h or 1d12h.")
    return found


def _length(text: str) -> int:
    """A length of time, which may be 0m."""
    from infra import durations  # noqa: PLC0415

    try:
        return durations.minutes(text)
    except ValueError as error:
        raise LaunchError(f"{error}.") from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what costs or destroys.

    Raises:
        LaunchError: Nobody can be asked, and nobody said yes before.
        typer.Exit: The answer is no.
    """
    if yes:
        return
    if terminal.json or not terminal.console(stderr=True).is_terminal:
        raise LaunchError(f"{question} Nobody can be asked here: give --yes.")
    if not typer.confirm(question, err=True):
        terminal.note("Nothing was changed.")
        raise typer.Exit(1)


@contextmanager
def shown_progress(what: str) -> "Iterator[Progress]":
    """Pulumi's steps: as they go on a terminal, a line for each that is done elsewhere."""
    from bootstrap.clusters.progress import Progress  # noqa: PLC0415

    if not terminal.is_live:
        yield Progress(terminal.note)
        return
    from rich.live import Live  # noqa: PLC0415

    progress = Progress()
    with Live(
        get_renderable=lambda: _steps(what, progress),
        console=terminal.console(stderr=True),
        refresh_per_second=4,
        transient=True,
    ):
        yield progress


def _steps(what: str, progress: "Progress") -> Any:
    import time  # noqa: PLC0415

    from rich.table import Table  # noqa: PLC0415

    running = progress.running()
    table = Table.grid(padding=(0, 2))
    table.add_row(f"[bold]{what}[/]", f"{sum(progress.counts.values())} done, {len(running)} at work")
    for step in running[:12]:
        table.add_row(f"  {step.doing}", f"{time.monotonic() - step.began:.0f} s")
    return table


def _init(
    *,
    cluster: ClusterName = LOCAL,
    preset: Annotated[str | None, typer.Option(help="What to start from; `cos plan --preset` shows it.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region. [default: the preset's]")] = None,
    zone: Annotated[str | None, typer.Option(help="Availability zone. [default: the preset's]")] = None,
    owner: Annotated[str | None, typer.Option(help="Who answers for it. [default: your login]")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long it lives, as 8h. [default: the preset's]")] = None,
    ssh_from: Annotated[str | None, typer.Option(help="Your address with /32, or `ssm`. [default: found]")] = None,
    ssh_key: Annotated[Path | None, typer.Option(help="Your public key. [default: of ~/.ssh]")] = None,
    budget: Annotated[float | None, typer.Option(help="US dollars a month, with a mail at 80 %.")] = None,
    alarm: Annotated[str | None, typer.Option(help="Whom the budget's mail goes to.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Any key, as idle=1h; repeatable.")] = None,
) -> None:
    """Write the configuration of a cluster; on a terminal what is missing is asked."""
    from bootstrap.clusters import config  # noqa: PLC0415
    from infra import config_pairs, presets  # noqa: PLC0415

    name = _asked("Name of the cluster", None if cluster == LOCAL else cluster, "--cluster")
    preset = _asked(f"Preset ({', '.join(presets.names())})", preset, "--preset", "gpu-single")
    usual = presets.values(preset)
    if (budget is None) != (alarm is None):
        raise LaunchError("A budget needs both the sum and whom to write to: give --budget and --alarm.")
    if zone is None and region is not None and usual.get("region") != region:
        zone = _asked(f"Availability zone of {region}", None, "--zone", f"{region}a")
    given = {
        "preset": preset, "region": region, "zone": zone, "owner": owner, "ttl": ttl, "ssh_from": ssh_from,
        "ssh_public_key": _key(ssh_key), "budget_usd": budget, "budget_email": alarm,
        **config_pairs.parse(setting or []),
    }  # fmt: skip
    path = config.create(name, {key: value for key, value in given.items() if value is not None})
    if terminal.json:
        terminal.data({"cluster": name, "path": str(path), "config": config.read(name)})
    else:
        terminal.say(str(path))
        terminal.note(f"See it by `cos plan --cluster {name}`, make it by `cos up --cluster {name}`.")


def _asked(question: str, given: str | None, option: str, default: str | None = None) -> str:
    """What was given, or what the person answers."""
    if given is not None:
        return given
    if terminal.json or not terminal.console(stderr=True).is_terminal:
        raise LaunchError(f"{option} is missing: give it.")
    return str(typer.prompt(question, default=default, err=True))


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise LaunchError(f"The public key {path} cannot be read ({error.strerror}): name another one.") from None


def _plan(
    *,
    cluster: ClusterName = LOCAL,
    preset: Annotated[str | None, typer.Option(help="Show a preset instead of a cluster of yours.")] = None,
) -> None:
    """Show what a cluster is made of, its network and its price; needs no credentials."""
    from bootstrap.clusters import config  # noqa: PLC0415
    from infra.estimate import estimate, offline_lookup  # noqa: PLC0415
    from infra.plan import example, show  # noqa: PLC0415
    from infra.planned import plan  # noqa: PLC0415

    wanted = example(preset) if preset else config.preview(cluster, config.read(cluster))
    cost, resources = estimate(wanted, offline_lookup(wanted)), plan(wanted)
    if terminal.json:
        terminal.data(
            {
                "cluster": wanted.cluster,
                "nodes": wanted.node_count,
                "resources": [{"type": each.type, "name": each.name} for each in resources],
                "usd_per_hour": cost.known_usd,
                "hours": cost.hours,
                "unknown": cost.unknown,
            }
        )
    else:
        show(terminal.console(), wanted, resources, cost)


def _up(
    *,
    cluster: ClusterName = LOCAL,
    yes: Yes = False,
    force: Force = False,
    wait: Wait = "30m",
    new_kit: Annotated[
        bool, typer.Option("--new-kit", help="Bring your present code to nodes: replaces them.")
    ] = False,
) -> None:
    """Make a cluster, or go on where the last `up` broke off; shows the price and asks first."""
    _make(cluster, wait, yes=yes, force=force, new_kit=new_kit)


def _make(
    cluster: str,
    wait: str,
    *,
    yes: bool,
    force: bool,
    new_kit: bool = False,
    on_begin: Callable[[], object] = lambda: None,
) -> None:
    from bootstrap.clusters import config, facts  # noqa: PLC0415
    from bootstrap.clusters.down import refuse_running  # noqa: PLC0415
    from bootstrap.clusters.engine import alone, find_command  # noqa: PLC0415
    from bootstrap.clusters.up import build_kit, join, make, prepare  # noqa: PLC0415

    seconds = minutes(wait) * 60.0
    config.read(cluster)
    find_command()
    with alone(cluster):
        prepared = prepare(cluster, new_kit=new_kit)
        if prepared.ending:
            terminal.note(f"to be replaced or removed: {', '.join(prepared.ending)}")
            refuse_running(prepared.place, cluster, facts.known(cluster), jobs_of(cluster), force=force)
        price = _checked(prepared)
        confirm(f"{_intent(prepared)} for {price}?", yes=yes)
        on_begin()
        try:
            if prepared.own_kit is not None:
                terminal.note("building the kit for the nodes (the first one takes minutes)")
            build_kit(prepared)
            with shown_progress(f"{cluster} goes up") as progress:
                bucket = make(prepared, progress, terminal.note)
            made = join(prepared, bucket, terminal.note, seconds)
        except KeyboardInterrupt:
            _tell_interrupted(prepared)
            raise typer.Exit(INTERRUPTED) from None
    if terminal.json:
        terminal.data(made.model_dump(mode="json"))
    else:
        terminal.say(
            f"{cluster} is up: {1 + len(made.workers)} nodes, until {prepared.config.deadline:%Y-%m-%d %H:%M} UTC."
        )


def _checked(prepared: "Prepared") -> str:
    """Tell the preflight's findings; the price in words.

    Raises:
        LaunchError: AWS would refuse something.
    """
    from bootstrap.clusters.up import check  # noqa: PLC0415

    findings = list(check(prepared))
    for finding in findings:
        if finding.level != "ok":
            terminal.note(f"{finding.level}: {finding.message}")
    wrong = [finding.message for finding in findings if finding.level == "error"]
    if wrong:
        raise LaunchError("\n".join(wrong))
    price = next((finding.message for finding in findings if finding.check == "price"), "an unknown price")
    terminal.note(f"Price: {price}")
    return price.partition(";")[0]


def _intent(prepared: "Prepared") -> str:
    config = prepared.config
    if not prepared.is_used:
        return f"Make {config.cluster}, {config.node_count} nodes in {config.zone},"
    changes = {what: count for what, count in prepared.changes.items() if what != "same"}
    changed = ", ".join(f"{count} to {what}" for what, count in changes.items()) or "nothing to change"
    if prepared.own_kit is not None:
        changed = "a kit of your present code"
    if not prepared.ending:
        return f"Bring {config.cluster} up to date ({changed})"
    more = f" and {len(prepared.ending) - _NAMED} others" if len(prepared.ending) > _NAMED else ""
    nodes = ", ".join(prepared.ending[:_NAMED]) + more
    return f"Bring {config.cluster} up to date ({changed}), which replaces or removes {nodes},"


def _tell_interrupted(prepared: "Prepared") -> None:
    """After Ctrl-C: what is there costs. Whether to destroy it is asked only where nothing was there before."""
    name = prepared.config.cluster
    state = "may be changed in part" if prepared.is_used else "is half up and costs"
    hint = f"`cos up --cluster {name}` goes on from here, `cos down --cluster {name}` ends what is there."
    terminal.error(f"Interrupted: {name} {state}. {hint}")
    if prepared.is_used or not terminal.console(stderr=True).is_terminal or terminal.json:
        return
    if typer.confirm("Destroy what is there now?", default=True, err=True):
        _end(name, prepared.engine, prepared.place, save_seconds=None)


def _resize(
    group: Annotated[str, typer.Argument(help="The group of workers.")],
    count: Annotated[int, typer.Argument(min=1, max=512, help="How many it is to have.")],
    *,
    cluster: ClusterName = LOCAL,
    yes: Yes = False,
    force: Force = False,
    wait: Wait = "30m",
) -> None:
    """Add workers to a group, or remove the last ones of it."""
    from bootstrap.clusters import config  # noqa: PLC0415
    from bootstrap.clusters.running import require  # noqa: PLC0415

    workers = config.resized(cluster, group, count)
    require(cluster)
    before = config.read(cluster).get("workers")
    config.change(cluster, workers=workers)
    with ExitStack() as undo:
        undo.callback(config.change, cluster, workers=before)
        _make(cluster, wait, yes=yes, force=force, on_begin=undo.pop_all)  # what has begun stays


def jobs_of(cluster: str) -> Callable[[], list[str]]:
    """Asks the master for the jobs that are not over."""

    def ask() -> list[str]:
        with site(cluster, MASTER_SECONDS) as there:
            return [f"{record.id} ({record.name})" for record in there.jobs.all() if not record.is_over]

    return ask


def _down(
    *,
    cluster: ClusterName = LOCAL,
    yes: Yes = False,
    force: Force = False,
    save: Annotated[str, typer.Option(help="How long nodes may take to save logs and models; 0m: not at all.")] = "3m",
    delete_bucket: Annotated[bool, typer.Option("--delete-bucket", help="Remove logs and models too.")] = False,
) -> None:
    """End a cluster: save logs and models, destroy, prove that nothing billable is left, tell the cost."""
    from bootstrap.clusters import config, facts  # noqa: PLC0415
    from bootstrap.clusters.down import refuse_running  # noqa: PLC0415
    from bootstrap.clusters.engine import Engine, alone, find_command  # noqa: PLC0415
    from bootstrap.clusters.nodes import place  # noqa: PLC0415

    seconds = _length(save) * 60.0 if save != "3m" else None
    config.read(cluster)
    find_command()
    with alone(cluster):
        where = place(config.region(cluster))
        refuse_running(where, cluster, facts.known(cluster), jobs_of(cluster), force=force)
        engine = Engine(cluster)
        engine.require_free()  # before nodes end that somebody makes from another laptop
        confirm(f"End {cluster} and all of its nodes?", yes=yes)
        _end(cluster, engine, where, seconds, delete_bucket=delete_bucket)


def _end(name: str, engine: Any, where: Any, save_seconds: float | None, *, delete_bucket: bool = False) -> None:
    """End a cluster and tell of it."""
    from bootstrap.clusters.down import drop_bucket, end  # noqa: PLC0415

    with shown_progress(f"{name} goes down") as progress:
        ended = end(name, where, engine, progress, terminal.note, save_seconds=save_seconds)
    if ended.bucket and delete_bucket and not ended.is_own:
        terminal.note(f"bucket {ended.bucket} is your own (cos:bucket): it is kept")
    elif ended.bucket and delete_bucket:
        drop_bucket(where, ended.bucket)
        terminal.note(f"bucket {ended.bucket} is removed")
        ended = ended._replace(bucket=None)
    if terminal.json:
        terminal.data({"cluster": name, "left": [], "cost": ended.cost, "bucket": ended.bucket})
    else:
        terminal.say(f"Nothing billable of {name} is left in {where.region}. It cost {ended.cost}.")
        if ended.bucket:
            terminal.say(f"Kept: s3://{ended.bucket}, with models and checkpoints below jobs/{name}/.")
