"""Caffe's messages; the ``_pb2`` modules are generated from the ``.proto`` files by ``make proto``."""
