"""What turns bare machines into a cluster, and what a person types."""
