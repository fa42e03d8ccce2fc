"""Clusters of AWS from configuration to end: what the verbs `init`, `up`, `status`, `down` and others do."""
