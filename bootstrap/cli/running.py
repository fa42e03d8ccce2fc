"""`cos status`, `extend`, `stop`, `start`, `cost`, `sweep`, `doctor`: clusters of AWS that are there."""

import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootstrap.cli.clusters import Force, Wait, Yes, confirm, jobs_of, minutes
from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import LOCAL, ClusterName, ssh_host, verb
from bootstrap.errors import LaunchError

if TYPE_CHECKING:
    from bootstrap.clusters.running import State


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "status")(_status)
    verb(app, "extend")(_extend)
    verb(app, "stop")(_stop)
    verb(app, "start")(_start)
    verb(app, "cost")(_cost)
    verb(app, "sweep")(_sweep)
    verb(app, "doctor")(_doctor)


def _status(cluster: ClusterName = LOCAL) -> None:
    """Show a cluster's nodes, their readiness and its deadline."""
    from bootstrap.clusters.running import look, used  # noqa: PLC0415

    state = look(cluster)
    _renew_facts(state)
    busy = used(state)
    if terminal.json:
        terminal.data(
            {
                "cluster": cluster,
                "region": state.place.region,
                "deadline": state.deadline and state.deadline.isoformat(),
                "busy": busy,
                "bucket": state.bucket,
                "nodes": [_plain(state, node) for node in state.nodes],
            }
        )
        return
    if not state.live:
        terminal.say(f"{cluster} has no nodes: `cos up --cluster {cluster}` makes them.")
        return
    rows = [
        (node.name, node.type, _word(state, node), node.public_ip or node.private_ip, node.id) for node in state.live
    ]
    terminal.table(rows, ("NODE", "TYPE", "STATE", "ADDRESS", "ID"))
    use = {True: "in use", False: "idle", None: "no word of its use"}[busy]
    terminal.note(f"{cluster} in {state.place.region}, {use}, {_until(state)}")


def _plain(state: "State", node: Any) -> dict[str, Any]:
    found = state.readiness.get(node.id)
    return {
        **{key: value for key, value in node._asdict().items() if key not in ("launched", "ended", "deadline")},
        "launched": node.launched.isoformat(),
        "readiness": found.state if found else None,
        "reasons": list(found.reasons) if found else [],
    }


def _word(state: "State", node: Any) -> str:
    found = state.readiness.get(node.id)
    if node.state != "running" or found is None:
        return str(node.state)
    return f"{found.state}: {'; '.join(found.reasons)}" if found.reasons else found.state


def _until(state: "State") -> str:
    if state.deadline is None:
        return "without a deadline"
    left = (state.deadline - datetime.datetime.now(datetime.UTC)).total_seconds()
    return f"until {state.deadline:%Y-%m-%d %H:%M} UTC ({max(0, left) / 3600:.1f} h)"


def _renew_facts(state: "State") -> None:
    """Write the facts anew where the nodes are others than they say, or there are none of this version."""
    from bootstrap.clusters import config, facts  # noqa: PLC0415
    from bootstrap.clusters.nodes import aws_errors  # noqa: PLC0415
    from bootstrap.clusters.up import write_facts  # noqa: PLC0415

    running = [node for node in state.live if node.state == "running"]
    ready = all(found.state == "ready" for found in state.readiness.values())
    known = facts.known(state.name)
    told = {(node.id, node.public_ip) for node in (known.master, *known.workers)} if known else set()
    if not running or not ready or state.bucket is None or told == {(node.id, node.public_ip) for node in running}:
        return
    if known is None and state.name not in config.names():
        return
    with aws_errors():
        values = config.preview(state.name, config.read(state.name))
        write_facts(state.place, values, state.bucket, running, terminal.note)


def _extend(
    time: Annotated[str, typer.Argument(help="How much longer it lives, as 2h or 90m.")],
    *,
    cluster: ClusterName = LOCAL,
) -> None:
    """Move the deadline: the nodes' own, the schedule's and the tags'."""
    from bootstrap.clusters import running  # noqa: PLC0415

    fresh = running.extend(cluster, minutes(time))
    if terminal.json:
        terminal.data({"cluster": cluster, "deadline": fresh.isoformat()})
    else:
        terminal.say(f"{cluster} ends at {fresh:%Y-%m-%d %H:%M} UTC.")


def _stop(*, cluster: ClusterName = LOCAL, yes: Yes = False, force: Force = False) -> None:
    """Stop the nodes: they cost no longer, their disks, addresses and gateways do; the deadline stays."""
    from bootstrap.clusters import facts, running  # noqa: PLC0415
    from bootstrap.clusters.down import refuse_running  # noqa: PLC0415
    from bootstrap.clusters.engine import alone  # noqa: PLC0415

    with alone(cluster):
        state = running.require(cluster)
        refuse_running(state.place, cluster, facts.known(cluster), jobs_of(cluster), force=force)
        confirm(f"Stop the nodes of {cluster}?", yes=yes)
        running.stop(state, terminal.note)
        _note_cost(state)
    terminal.say(f"{cluster} is stopped: `cos start` goes on, {_until(state)}.")


def _start(*, cluster: ClusterName = LOCAL, wait: Wait = "30m") -> None:
    """Start stopped nodes and wait until they are ready."""
    from bootstrap.clusters import running  # noqa: PLC0415
    from bootstrap.clusters.engine import alone  # noqa: PLC0415

    with alone(cluster):
        state = running.require(cluster, ("stopped",))
        nodes = running.start(state, terminal.note, minutes(wait) * 60.0)
        _note_cost(state)
        _renew_facts(running.look(cluster))
    terminal.say(f"{cluster} is up: {len(nodes)} nodes, {_until(state)}.")


def _note_cost(state: "State") -> "list[Any]":
    from bootstrap.clusters import config, cost  # noqa: PLC0415
    from bootstrap.clusters.nodes import aws_errors  # noqa: PLC0415

    if state.bucket is None:
        return []
    with aws_errors():
        return list(cost.note(state.place, config.preview(state.name, config.read(state.name)), state.bucket))


def _cost(cluster: ClusterName = LOCAL) -> None:
    """Tell what a cluster has cost so far, by node, and what it will by its deadline."""
    from bootstrap.clusters.running import look  # noqa: PLC0415

    state = look(cluster)
    meters, now = _note_cost(state), datetime.datetime.now(datetime.UTC)
    if not meters:
        raise LaunchError(f"Nothing is noted of {cluster}: it was never up, or its bucket is gone.")
    spent = [(meter, meter.hours(now), None if meter.usd is None else meter.usd * meter.hours(now)) for meter in meters]
    total = sum(usd for _, _, usd in spent if usd is not None)
    left = max(0.0, (state.deadline - now).total_seconds() / 3600) if state.deadline else 0.0
    hourly = sum(meter.usd or 0.0 for meter in meters if meter.end is None)
    unknown = sorted({meter.what for meter in meters if meter.usd is None})
    if terminal.json:
        terminal.data(
            {
                "cluster": cluster,
                "spent_usd": round(total, 4),
                "usd_per_hour": round(hourly, 4),
                "to_deadline_usd": round(total + hourly * left, 4),
                "unknown": unknown,
                "runs": [{**meter._asdict(), "hours": hours, "spent_usd": usd} for meter, hours, usd in spent],
            }
        )
        return
    rows = [
        (meter.what, _dollars(meter.usd, 4), f"{hours:.2f}", _dollars(usd, 2), "" if meter.end is None else "ended")
        for meter, hours, usd in spent
    ]
    terminal.table(rows, ("WHAT", "$ AN HOUR", "HOURS", "$", ""))
    terminal.say(f"${total:,.2f} so far, ${hourly:,.2f} an hour, ${total + hourly * left:,.2f} by the deadline.")
    if unknown:
        terminal.say(f"Not in it, as their price is not known: {', '.join(unknown)}.")
    terminal.note("List prices on demand and the latest of spot; S3 and traffic are left out.")


def _dollars(usd: float | None, digits: int) -> str:
    return "unknown" if usd is None else f"{usd:,.{digits}f}"


def _sweep(
    *,
    cluster: ClusterName = LOCAL,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was found; without, it is only told.")] = False,
    region: Annotated[
        str | None, typer.Option(help="AWS region. [default: the cluster's, else your profile's]")
    ] = None,
    all_regions: Annotated[bool, typer.Option("--all-regions", help="Look into all of them.")] = False,
    yes: Yes = False,
    force: Force = False,
    delete_bucket: Annotated[bool, typer.Option("--delete-bucket", help="Remove logs and models too.")] = False,
) -> None:
    """Find by tag what a lost state left, of one cluster or of all; `--remove` ends one."""
    from bootstrap.clusters import sweep  # noqa: PLC0415

    name = None if cluster == LOCAL else cluster
    if remove and name is None:
        raise LaunchError("--remove ends one cluster: name it by --cluster; without --remove all are told.")
    regions = sweep.regions(name, region, everywhere=all_regions)
    where = "any region" if all_regions else regions[0]
    found = sweep.look(name, regions)
    if terminal.json:
        terminal.data([entry._asdict() for entry in found])
    elif found:
        rows = [
            (each.cluster, each.owner, each.region, each.kind, each.id, "$" if each.billable else "") for each in found
        ]
        terminal.table(rows, ("CLUSTER", "OWNER", "REGION", "WHAT", "ID", ""))
    else:
        terminal.say(f"Nothing of {name or 'any cluster'} is there in {where}.")
    if not remove or name is None or not found:
        if found:
            terminal.note("This was a look: `cos sweep --cluster NAME --region REGION --remove` ends one.")
        return
    buckets = [each.id for each in found if each.kind == "bucket"]
    models = f" and {', '.join(buckets)} with logs and models" if delete_bucket and buckets else ""
    confirm(f"Remove these {len(found) - len(buckets)} resources of {name}{models} in {where}?", yes=yes)
    sweep.remove(name, found, terminal.note, force=force, delete_buckets=delete_bucket)
    terminal.note(f"Nothing billable of {name} is left in {where}.")


def _doctor(
    *,
    cluster: ClusterName = LOCAL,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the allreduce too; best while no job runs.")] = False,
) -> None:
    """Look for what is wrong: laptop, credentials, cluster, every node."""
    from bootstrap.clusters import config, doctor, facts  # noqa: PLC0415
    from bootstrap.clusters.nodes import aws_errors  # noqa: PLC0415
    from bootstrap.clusters.running import look  # noqa: PLC0415

    known = None if cluster == LOCAL else facts.known(cluster)
    checks = list(doctor.laptop(known))
    if cluster != LOCAL:
        state = look(cluster)
        with aws_errors():
            checks += [doctor.credentials(state), *doctor.cluster(state, known)]
        if known is not None and any(node.state == "running" for node in state.live):
            checks += doctor.nodes(known, lambda address: ssh_host(address, known))
            if probe:
                groups = config.preview(cluster, config.read(cluster)).workers
                wants_efa = any(group.efa for group in groups)
                checks += doctor.probe(known, state, lambda address: ssh_host(address, known), efa=wants_efa)
    if terminal.json:
        terminal.data([check._asdict() for check in checks])
    else:
        terminal.table([(check.level, check.where, check.message) for check in checks])
    if any(check.level == "error" for check in checks):
        raise typer.Exit(1)
