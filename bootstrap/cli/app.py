"""Puts the groups of verbs together."""

import sys
from typing import Annotated

import typer

from bootstrap.cli import clusters, jobs, nodes, pages, running, tools, train
from bootstrap.cli.terminal import terminal

_HELP = """Deep learning on Spark: Caffe solvers trained, tested and used for features on a cluster.

Exit codes: 0 done, 1 the job or command failed, 2 a mistake to mend, 3 the connection was lost, 130 interrupted;
a job's own code otherwise."""


def build_app() -> typer.Typer:
    """The whole command."""
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,  # typer's panels would load rich's markdown and pygments: twice the time of `cos --help`
        pretty_exceptions_enable=False,  # a bug is told by Python's own trace, and a mistake by one sentence
    )
    app.callback()(_options)
    for group in (clusters, running, train, jobs, nodes, pages, tools):
        group.register(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata  # noqa: PLC0415 - only here

        try:
            version = importlib.metadata.version("cos")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown (not installed)"
        terminal.say(f"cos {version}")
        raise typer.Exit


def _enter_lab(wanted: bool) -> None:
    if wanted:
        from bootstrap.cli.lab import enter  # noqa: PLC0415 - only here

        enter([argument for argument in sys.argv[1:] if argument != "--lab"])


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")] = False,
    lab: Annotated[
        bool,
        typer.Option("--lab", callback=_enter_lab, is_eager=True, help="In the lab that `make lab-shell` keeps up."),
    ] = False,
) -> None:
    """Options that stand before the verb."""
    terminal.json = terminal.quiet = False
    terminal.debug = debug
