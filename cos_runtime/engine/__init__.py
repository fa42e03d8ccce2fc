"""Jobs over a cluster: ranks in a barrier stage, their feed, the training loop, and inference."""
