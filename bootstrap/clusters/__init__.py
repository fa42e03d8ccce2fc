"""Clusters of AWS from their configuration to their end: what the verbs `init`, `up`, `status`, `down` and others do."""
