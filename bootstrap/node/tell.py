"""The boot's log: on standard output, which cloud-init and systemd send to the console, and in a file."""

import logging
import sys
import time
from pathlib import Path

FORMAT = "%(asctime)s cos %(name)s: %(message)s"


def tell_to(path: Path) -> None:
    """Send what the modules say to standard output and, from now on, to this file too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.Formatter.converter = time.gmtime
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout), logging.FileHandler(path)]
    logging.basicConfig(level=logging.INFO, format=FORMAT, datefmt="%Y-%m-%dT%H:%M:%SZ", handlers=handlers, force=True)
