"""Secure shell to a cluster's nodes: pinned host keys, one connection a node, everything with a time limit."""
