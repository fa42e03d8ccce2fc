"""The plan of a cluster: what Pulumi makes in a cloud, and what it tells the launcher about it."""
