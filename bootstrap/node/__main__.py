"""`python -m bootstrap.node boot|guard|sent|spot`: what the units of a node run."""

import argparse
import sys

from bootstrap.node.boot import boot
from bootstrap.node.context import Context
from bootstrap.node.guard import Guard
from bootstrap.node.idle import Idleness
from bootstrap.node.sent import keep
from bootstrap.node.spot import watch
from bootstrap.node.tell import tell_to


def main() -> int:
    """Run one of the node's duties; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bootstrap.node", description=__doc__)
    parser.add_argument("duty", choices=("boot", "guard", "sent", "spot"))
    duty = parser.parse_args().duty
    context = Context.of_this_node()
    tell_to(context.layout.logs / f"{duty}.log")
    if duty == "boot":
        return boot(context)
    if duty == "guard":
        Guard(context, Idleness(context)).run()
    elif duty == "sent":
        keep(context)
    else:
        watch(context)
    return 0


if __name__ == "__main__":
    sys.exit(main())
