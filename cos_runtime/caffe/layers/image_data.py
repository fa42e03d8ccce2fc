"""Layers that read image files themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cos_runtime import storage
from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.reading import own_turns, permutation, read_lines
from cos_runtime.caffe.pixels import decode_image, resize
from cos_runtime.caffe.transform import Transformer


def read_image(root: str, name: str, channels: int | None) -> np.ndarray:
    """The pixels [C, H, W] of the image file ``root`` + ``name``, as Caffe joins them."""
    path = root + name
    return decode_image(storage.read_bytes(path, "image"), channels, f"image {path}")


@register("ImageData")
class ImageData(Layer):
    """Tops: the images of ``source``, a file with a path and a label a line, and their labels.

    Images are resized to ``new_height`` x ``new_width`` where given, then transformed by ``transform_param``. With
    ``shuffle`` the lines are in a new random order in each round; ``rand_skip`` leaves out up to that many first ones.
    Ranks take turns: each line is one rank's.
    """

    n_bottoms = (0, 0)
    n_tops = (2, 2)
    reads_in_order = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.image_data_param
        if param.batch_size < 1:
            self.refuse("batch_size is 0, it must be 1 or more")
        if bool(param.new_height) != bool(param.new_width):
            self.refuse("one of new_height and new_width is given alone: give both, or none")
        self.lines = [self._parsed(line) for line in read_lines(self, param.source, "list of images")]
        self.transform = Transformer(self.param.transform_param, self.is_training)
        self.records: Iterator[tuple[str, float]] | None = None
        shape = self.transform.out_shape(*self._image(self.lines[0][0]).shape)
        return [(param.batch_size, *shape), (param.batch_size,)]

    def _parsed(self, line: str) -> tuple[str, float]:
        name, _, label = line.rpartition(" ")
        try:
            return name.strip(), float(int(label))
        except ValueError:
            self.refuse(f'line "{line}" of {self.param.image_data_param.source} is not a path and a whole number')

    def _image(self, name: str) -> np.ndarray:
        param = self.param.image_data_param
        image = read_image(param.root_folder, name, 3 if param.is_color else 1)
        return resize(image[None], param.new_height, param.new_width)[0] if param.new_height else image

    def _rounds(self) -> Iterator[list[tuple[str, float]]]:
        """The lines in the order of each round, without end."""
        param, lines = self.param.image_data_param, list(self.lines)
        skipped = int(torch.randint(param.rand_skip, ())) if param.rand_skip else 0
        if skipped >= len(lines):
            self.refuse(f"rand_skip {param.rand_skip} leaves nothing of {len(lines)} images")
        while True:
            order = permutation(len(lines)) if param.shuffle else range(len(lines))
            yield [lines[index] for index in list(order)[skipped:]]
            skipped = 0

    def forward(self) -> tuple[Tensor, Tensor]:
        if self.records is None:
            self.records = own_turns(self, self._rounds())
        names, labels = zip(*(next(self.records) for _ in range(self.param.image_data_param.batch_size)), strict=True)
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        # One at a time: their sizes may differ where a crop makes them one.
        images = [self.transform(self._image(name)[None], generator) for name in names]
        if len({tuple(image.shape) for image in images}) > 1:
            self.refuse("its images have different sizes: give new_height and new_width, or a crop_size")
        return torch.cat(images), torch.tensor(labels)
