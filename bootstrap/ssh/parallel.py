"""The same on all nodes at once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from bootstrap.errors import LaunchError

_Node = TypeVar("_Node")
_Result = TypeVar("_Result")

LIMIT = 32


def on_all(
    nodes: Sequence[_Node], do: Callable[[_Node], _Result], limit: int = LIMIT
) -> Iterator[tuple[_Node, "_Result | LaunchError"]]:
    """Do something with every node, `limit` of them at a time; a node's mistake does not stop the others.

    Yields:
        Each node with its result or what went wrong, in the order in which they are done.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(limit, len(nodes))), thread_name_prefix="node") as pool:
        futures = {pool.submit(do, node): node for node in nodes}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except LaunchError as error:
                yield futures[future], error
