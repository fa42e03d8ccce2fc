"""Where records come from: Spark DataFrames, and the way from their rows to a net's blobs."""
