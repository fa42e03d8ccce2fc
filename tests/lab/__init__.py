"""The lab: AWS made of Linux namespaces on this machine. It needs root; `docs/lab.md` tells what it pretends."""
