"""COS inside Spark: Caffe nets trained, tested and used for features by ranks that exchange gradients."""
