"""Write a net, solver or caffemodel of an older form of Caffe's in today's form."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from cos_runtime import storage
from cos_runtime.caffe import prototxt
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.caffe.upgrade import upgrade_net, upgrade_solver
from cos_runtime.errors import UserError
from cos_runtime.tools._command import run

_TEXT_CONTROLS = b"\t\n\r\f\v"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="upgrade", description=__doc__)
    parser.add_argument("input", metavar="OLD_FILE", help="net or solver prototxt, or binary .caffemodel")
    parser.add_argument("output", metavar="NEW_FILE", help="file to write; comments of a prototxt are not kept")
    return run(parser, _work, argv)


def upgraded(content: bytes, origin: str) -> tuple[bytes, str]:
    """The content in today's form, and what it is.

    Raises:
        UserError: it is neither a net nor a solver nor a caffemodel, or one that cannot be upgraded.
    """
    if not _is_text(content):
        net = _named(_binary(content, origin), origin)
        return net.SerializePartialToString(), "caffemodel"
    text = content.decode()
    try:
        net = prototxt.parse(text, NetParameter(), origin)
    except UserError as reason:
        try:
            solver = prototxt.parse(text, SolverParameter(), origin)
        except UserError:
            raise reason from None
        return text_format.MessageToString(upgrade_solver(solver)).encode(), "solver"
    return text_format.MessageToString(_named(net, origin)).encode(), "net"


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without control characters, of which a message's field numbers are some."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return not any(byte < 32 and byte not in _TEXT_CONTROLS for byte in content[:4096])


def _binary(content: bytes, origin: str) -> NetParameter:
    try:
        net = NetParameter.FromString(content)
    except DecodeError:
        raise UserError(f"{origin} is neither a prototxt nor a binary caffemodel, or a damaged one") from None
    if not (net.layer or net.layers):
        raise UserError(f"{origin} has no layers: it is no caffemodel")
    return net


def _named(net: NetParameter, origin: str) -> NetParameter:
    try:
        return upgrade_net(net)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _work(args: argparse.Namespace) -> str:
    content, kind = upgraded(storage.read_bytes(args.input), args.input)
    storage.write_bytes(args.output, content)
    return f"{args.output}: {kind} in today's form"


if __name__ == "__main__":
    raise SystemExit(main())
