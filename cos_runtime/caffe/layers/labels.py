"""Labels and indices: whole numbers that a blob holds as floats."""

from torch import Tensor

from cos_runtime.caffe.layers.base import Layer


def class_numbers(layer: Layer, blob: Tensor, classes: int) -> Tensor:
    """The blob's values as integers, fractions cut off as by C's cast.

    On the CPU each must be less than ``classes``, and none negative; on a GPU, where looking would make the host wait,
    torch itself stops at one that is not.
    """
    numbers = blob.detach().long()
    if numbers.device.type == "cpu" and numbers.numel():
        least, most = (int(bound) for bound in numbers.aminmax())
        if least < 0 or most >= classes:
            layer.refuse(f"its labels or indices are 0 to {classes - 1}, and one is {least if least < 0 else most}")
    return numbers


def without_ignored(blob: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """The labels with class 0 in the place of the ignored ones, and which are kept (None for all)."""
    if ignore is None:
        return blob, None
    kept = blob.long() != ignore
    return blob * kept, kept
