"""`cos tools`: the runtime's converters and other small programs."""

import ast
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bootstrap.cli.terminal import terminal
from bootstrap.cli.train import PASS_THROUGH
from bootstrap.errors import LaunchError

_PACKAGE = "cos_runtime.tools"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("tools", context_settings=PASS_THROUGH)(_tools)


def _tools(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The tool; none: list them.", show_default=False)] = None,
) -> None:
    """Run a tool (converters and the like) with the options that follow its name, or list the tools."""
    found = tools()
    if name is None:
        terminal.table([(tool, _summary(path)) for tool, path in found.items()])
        return
    if name not in found:
        raise LaunchError(f"There is no tool {name!r}: choose from {', '.join(found) or 'none, as none is installed'}.")
    sys.stdout.flush()
    # In our place: signals, exit code and terminal are the tool's.
    os.execv(sys.executable, [sys.executable, "-m", f"{_PACKAGE}.{name}", *context.args])  # noqa: S606


def tools() -> dict[str, Path]:
    """The tools' names and files, found without importing one."""
    try:
        spec = importlib.util.find_spec(_PACKAGE)
    except ModuleNotFoundError:
        spec = None
    files = [
        Path(module)
        for folder in (spec and spec.submodule_search_locations) or []
        for module in Path(folder).glob("*.py")
    ]
    return {file.stem: file for file in sorted(files) if not file.stem.startswith("_")}


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
