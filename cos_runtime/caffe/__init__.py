"""The Caffe language without Spark: nets, layers, solvers and their files."""
