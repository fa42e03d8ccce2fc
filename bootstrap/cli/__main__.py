"""`python -m bootstrap.cli` is `cos`."""

from bootstrap.cli import main

main()
