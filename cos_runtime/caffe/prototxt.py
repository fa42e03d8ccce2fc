"""Prototxt files: Caffe's text format, read by protobuf's own parser."""

import contextlib
import re
from collections.abc import Iterator
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from cos_runtime import storage
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.caffe.upgrade import upgrade_net, upgrade_solver
from cos_runtime.errors import UserError

M = TypeVar("M", bound=Message)

_STRING = r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
_COMMENT = r"#[^\n]*"
# A minus with blanks after it, before a number.
_MINUS = re.compile(rf"({_STRING}|{_COMMENT})|-(\s+)(?=[\d.]|inf|nan)")


def parse(text: str, message: M, origin: str) -> M:
    """Parse prototxt ``text`` into ``message``.

    Args:
        origin: the file's name, for error messages.

    Raises:
        UserError: with file, line, column and the parser's reason, which names the field.
    """
    try:
        # The blanks that C++'s parser allows come before the minus: every other place stays the same.
        text_format.Parse(_MINUS.sub(lambda found: found[1] or f"{found[2]}-", text), message)
    except text_format.ParseError as error:
        raise UserError(_explain(error, text, origin)) from None
    return message


def _explain(error: text_format.ParseError, text: str, origin: str) -> str:
    """Place, field and reason, without the line that the parser repeats."""
    reason = re.sub(r"^\d+:\d+ : ('.*': )?", "", str(error)).replace("caffe.", "").strip().rstrip(".")
    line, column = error.GetLine(), error.GetColumn()
    if not line or not column:
        return f"{origin}: {reason}"
    lines = text.splitlines()[:line]
    before = "\n".join([*lines[:-1], lines[-1][: column - 1]])
    field = re.search(r"(\w+)\s*:?\s*$", before)
    named = f'field "{field[1]}": ' if field and f'"{field[1]}"' not in reason else ""
    return f"{origin}:{line}:{column}: {named}{reason}"


def read(path: str, message: M, what: str) -> M:
    """Read the prototxt file at ``path`` (path or URL) into ``message``; ``what`` names its role in errors."""
    content = storage.read_bytes(path, what)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = _without_comments(content.decode(errors="surrogateescape"), f"{what} {path}")
    return parse(text, message, path)


def _without_comments(text: str, what: str) -> str:
    """Text without its comments, where alone there may be bytes that are not UTF-8."""
    bare = re.sub(f"({_STRING})|{_COMMENT}", lambda found: found[1] or "", text)
    try:
        bare.encode()
    except UnicodeEncodeError as error:
        if re.sub(_STRING, "", bare).isascii():
            line = bare.count("\n", 0, error.start) + 1
            raise UserError(f"{what}:{line}: a string is not UTF-8: save the file with that encoding") from None
        raise UserError(f"{what} is not text: a prototxt file is expected, not a binary one") from None
    return bare


def read_net(path: str) -> NetParameter:
    """The net in a prototxt file, in today's form."""
    net = read(path, NetParameter(), "net")
    with _named(path):
        return upgrade_net(net)


def read_solver(path: str) -> SolverParameter:
    """The solver in a prototxt file, and the nets in it, in today's form."""
    solver = read(path, SolverParameter(), "solver")
    with _named(path):
        solver = upgrade_solver(solver)
        nets = [getattr(solver, name) for name in ("net_param", "train_net_param") if solver.HasField(name)]
        for net in [*nets, *solver.test_net_param]:
            net.CopyFrom(upgrade_net(net))
    return solver


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
