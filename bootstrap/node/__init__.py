"""What runs on a node of a cluster: it makes itself a master or a worker, and ends itself in time."""
