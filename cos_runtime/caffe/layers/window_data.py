"""WindowData: labelled windows of images, as R-CNN trains on (Girshick et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.image_data import read_image
from cos_runtime.caffe.layers.reading import read_lines
from cos_runtime.caffe.pixels import resize
from cos_runtime.caffe.transform import read_mean

CHANNELS = 3
"""Of every image: Caffe reads them in colour."""


@dataclass(frozen=True)
class Window:
    """A window of an image; its corners are pixels that belong to it."""

    image: str
    label: int
    overlap: float
    x1: int
    y1: int
    x2: int
    y2: int

    def __str__(self) -> str:
        return f"the window {self.x1} {self.y1} {self.x2} {self.y2} of {self.image}"


@dataclass(frozen=True)
class _Place:
    """What to cut out of an image, and where it goes in the crop: first pixel and size, (x, y) each."""

    start: tuple[int, int]
    end: tuple[int, int]
    pad: tuple[int, int]
    size: tuple[int, int]


def _round(value: np.floating) -> int:
    """To the nearest whole number, halves away from zero: C's round."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


@register("WindowData")
class WindowData(Layer):
    """Tops: windows drawn at random from the file ``source``, resized to the crop, and their labels.

    ``fg_fraction`` of a batch, its end, are windows that overlap an object by ``fg_threshold`` or more, the others
    background: an overlap below ``bg_threshold``, label 0. ``context_pad`` pixels of the crop are what surrounds the
    window; with ``crop_mode: "square"`` it is widened to a square first.

    ``source`` has, for each image: ``# index``, path, channels, height, width, number of windows, and for each of
    these: label, overlap, x1, y1, x2, y2. Images are read in colour. Crop, mirror and mean are those of
    ``transform_param``, the scale is that of ``window_data_param``.
    """

    n_bottoms = (0, 0)
    n_tops = (2, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, transform = self.param.window_data_param, self.param.transform_param
        self.crop = transform.crop_size
        if param.batch_size < 1 or self.crop < 1:
            self.refuse(f"batch_size is {param.batch_size} and crop_size {self.crop}: both must be 1 or more")
        if 2 * param.context_pad >= self.crop:
            self.refuse(f"context_pad {param.context_pad} on both sides leaves nothing of crop_size {self.crop}")
        if param.crop_mode not in ("warp", "square"):
            self.refuse(f'crop_mode is "{param.crop_mode}": use "warp" or "square"')
        self._sort(list(self._read(read_lines(self, param.source, "window file"))))
        # In single precision, as Caffe counts: 0.29 of 100 are 29.
        self.n_foreground = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        wanted = {"foreground": self.n_foreground, "background": param.batch_size - self.n_foreground}
        for kind, count in wanted.items():
            if count and not getattr(self, kind):
                self.refuse(f"{param.source} has no {kind} window: see fg_threshold and bg_threshold")
        self.mean = self._mean()
        return [(param.batch_size, CHANNELS, self.crop, self.crop), (param.batch_size,)]

    def _sort(self, windows: list[Window]) -> None:
        """Tell those of the foreground from those of the background; those between are neither."""
        param = self.param.window_data_param
        self.foreground = [window for window in windows if window.overlap >= param.fg_threshold]
        self.background = [window for window in windows if window.overlap < min(param.fg_threshold, param.bg_threshold)]
        for window in self.foreground:
            if window.label < 1:
                self._refuse_file(
                    f"has label {window.label} for {window}, which is foreground by its overlap of "
                    f"{window.overlap:g}: the label of an object is 1 or more"
                )

    def _mean(self) -> np.ndarray:
        transform, shape = self.param.transform_param, (CHANNELS, self.crop, self.crop)
        if transform.mean_file and transform.mean_value:
            self.refuse("transform_param has both mean_file and mean_value: keep one of them")
        if transform.mean_file:
            mean = read_mean(transform.mean_file)
            # Down as far as to the right, as in Caffe.
            off = max(0, (mean.shape[2] - self.crop) // 2)
            crop = mean[:, off : off + self.crop, off : off + self.crop]
            if crop.shape != shape:
                self.refuse(
                    f"mean file {transform.mean_file} is of an image of {' x '.join(map(str, mean.shape))} (channels x "
                    f"height x width), which has not the {' x '.join(map(str, shape))} of the crop in it"
                )
            return crop
        values = np.array(transform.mean_value or [0.0], np.float32)
        if len(values) not in (1, CHANNELS):
            self.refuse(f"it has {len(values)} mean_value for {CHANNELS} channels: give one, or one a channel")
        return np.broadcast_to(values.reshape(-1, 1, 1), shape)

    def _read(self, lines: list[str]) -> Iterator[Window]:
        words, image, channels = iter(" ".join(lines).split()), "", CHANNELS
        try:
            for _ in words:
                next(words)
                image = next(words)
                channels, *_ = (int(next(words)) for _ in range(3))
                for _ in range(int(next(words))):
                    label, overlap = int(next(words)), float(np.float32(next(words)))
                    x1, y1, x2, y2 = (int(next(words)) for _ in range(4))
                    yield Window(image, label, overlap, x1, y1, x2, y2)
        except (StopIteration, ValueError, RuntimeError):
            self._refuse_file("is cut off or malformed")
        # The number of the last image is that of Caffe's top, into which it writes three all the same.
        if channels != CHANNELS:
            self._refuse_file(
                f"gives {image}, its last image, {channels} channels: images are read in colour, so give it {CHANNELS}"
            )

    def _refuse_file(self, reason: str) -> NoReturn:
        self.refuse(f"window file {self.param.window_data_param.source} {reason}")

    def forward(self) -> tuple[Tensor, Tensor]:
        data, labels = [], []
        for index in range(self.param.window_data_param.batch_size):
            is_foreground = index >= self.param.window_data_param.batch_size - self.n_foreground
            windows = self.foreground if is_foreground else self.background
            window = windows[int(torch.randint(len(windows), ()))]
            is_mirrored = self.param.transform_param.mirror and bool(torch.randint(2, ()))
            data.append(self._cropped(window, is_mirrored))
            labels.append(float(window.label if is_foreground else 0))
        return torch.from_numpy(np.stack(data)), torch.tensor(labels)

    def _cropped(self, window: Window, is_mirrored: bool) -> np.ndarray:
        param = self.param.window_data_param
        image = read_image(param.root_folder, window.image, CHANNELS)
        _, height, width = image.shape
        place = self._place(window, width, height, is_mirrored)
        (x1, y1), (x2, y2), (left, top), (wide, high) = place.start, place.end, place.pad, place.size
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height and min(wide, high) > 0):
            self._refuse_file(
                f"has {window}, which is no part of the image, of {width} x {height} pixels: "
                "give x1 y1 x2 y2, its first and last column and row, counted from 0"
            )
        pixels = resize(image[None, :, y1 : y2 + 1, x1 : x2 + 1], high, wide)[0]
        pixels = pixels[..., ::-1] if is_mirrored else pixels
        crop = np.zeros((CHANNELS, self.crop, self.crop), np.float32)
        mean = self.mean[:, top : top + high, left : left + wide]
        # A scale of transform_param has no effect in Caffe, nor so one of an old file, which its upgrade moves there.
        crop[:, top : top + high, left : left + wide] = (pixels - mean) * param.scale
        return crop

    def _place(self, window: Window, width: int, height: int, is_mirrored: bool) -> _Place:
        param = self.param.window_data_param
        if not param.context_pad and param.crop_mode != "square":
            return _Place((window.x1, window.y1), (window.x2, window.y2), (0, 0), (self.crop, self.crop))
        # In float32, as Caffe: a rounding may fall to another pixel.
        halves = [np.float32(window.x2 - window.x1 + 1) / 2, np.float32(window.y2 - window.y1 + 1) / 2]
        centres = window.x1 + halves[0], window.y1 + halves[1]
        halves = [max(halves)] * 2 if param.crop_mode == "square" else halves
        context = np.float32(self.crop) / np.float32(self.crop - 2 * param.context_pad)
        axes = []
        for centre, half, limit, mirrored in zip(centres, halves, (width, height), (is_mirrored, False), strict=True):
            start, end = _round(centre - half * context), _round(centre + half * context)
            before, after = max(0, -start), max(0, end - limit + 1)
            # One that is turned round may be empty: the caller refuses it.
            scale = np.float32(self.crop) / np.float32(max(end - start + 1, 1))
            pad = _round((after if mirrored else before) * scale)
            size = min(_round((end - after - start - before + 1) * scale), self.crop - pad)
            axes.append((start + before, end - after, pad, size))
        starts, ends, pads, sizes = zip(*axes, strict=True)
        return _Place(starts, ends, pads, sizes)
