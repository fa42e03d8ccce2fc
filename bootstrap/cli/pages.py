"""`cos ui` and `tensorboard`: pages of a cluster in this machine's browser."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Annotated
from urllib.parse import urlsplit

import typer

from bootstrap.cli.terminal import terminal
from bootstrap.cli.verbs import LOCAL, ClusterName, JobName, Site, site, verb
from bootstrap.errors import LaunchError

_LOOPBACK = "127.0.0.1"
_PAGES = {"master": 8080, "job": 4040, "history": 18080}
_TENSORBOARD = re.compile(rb"http://[^ ]*:(\d+)/")

NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Tell the addresses, and open nothing.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "ui")(_ui)
    verb(app, "tensorboard")(_tensorboard)


def _ui(*, cluster: ClusterName = LOCAL, port: Port = 0, no_browser: NoBrowser = False) -> None:
    """Open Spark's pages: the master's, the running job's, the history's; Ctrl-C closes the tunnels."""
    with site(cluster) as there, ExitStack() as stack:
        urls = {}
        for name, far in _ports(there).items():
            near = stack.enter_context(there.host.forward(_LOOPBACK, far, port if name == "master" else 0))
            urls[name] = f"http://{_LOOPBACK}:{near}"
        _hold(urls, browse=not no_browser)


def _ports(there: Site) -> Mapping[str, int]:
    """The ports of the site's pages."""
    if there.cluster is not None:
        return _PAGES
    running = [record for record in there.jobs.all() if record.web_url]
    if not running:
        raise LaunchError(
            "No local job runs, and the local cluster lives as long as its job: start one by `cos train`."
        )
    return {"master": urlsplit(running[-1].web_url).port or 0}


def _tensorboard(
    job: JobName = None, *, cluster: ClusterName = LOCAL, port: Port = 0, no_browser: NoBrowser = False
) -> None:
    """Open TensorBoard on a job's curves, where the job is; Ctrl-C ends it."""
    with site(cluster) as there:
        record = there.jobs.find(job)
        if record.metrics is None:
            raise LaunchError(f"Job {record.id} ({record.kind}) has no curves: `cos jobs` tells which train.")
        folder = os.path.join(os.path.dirname(record.metrics), "tensorboard")
        with _tensorboard_of(there, folder) as far, there.host.forward(_LOOPBACK, far, port) as near:
            _hold({"tensorboard": f"http://{_LOOPBACK}:{near}"}, browse=not no_browser)


@contextmanager
def _tensorboard_of(there: Site, folder: str) -> Iterator[int]:
    """TensorBoard on the site's host until the block ends; its port there."""
    options = ["--logdir", folder, "--host", _LOOPBACK, "--port", "0"]
    with there.host.start([*there.host.python, "-m", "tensorboard.main", *options]) as process:
        said = []
        for line in process.lines():
            said.append(line.decode(errors="replace"))
            if found := _TENSORBOARD.search(line):
                yield int(found[1])
                return
        tail = said[-1] if said else "it said nothing"
        raise LaunchError(f"TensorBoard did not start on {there.host.name} ({tail}): is it installed there?")


def _hold(urls: Mapping[str, str], *, browse: bool) -> None:
    """Show the pages until Ctrl-C."""
    if terminal.json:
        terminal.data(dict(urls))
    else:
        terminal.table([*urls.items()])
    terminal.note("Ctrl-C closes them.")
    if browse:
        import webbrowser  # noqa: PLC0415 - slow to load

        for url in urls.values():
            webbrowser.open(url)
    try:
        while True:
            time.sleep(3600.0)
    except KeyboardInterrupt:
        return
