"""Augmentation of training images on the device, batched, each sample with its own draws; and timm's own pipeline.

What happens to sample number n of a run depends on the seed and n alone, so that batches, ranks, workers and resuming
cannot change it. All draws are made on the host, and nothing is read back from the device.

Given the same draws, levels are those of timm on Pillow, but for less than one in a thousand that is off by 1. Only
flips are folded into the crop's resampling: two geometric operations in one are not what Pillow makes of them one after
the other (rotate 20 degrees, shear 0.2: 5 levels apart on average), and only 1 sample in 36 draws two.
Speed, also beside Kornia's, is in docs/benchmarks.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.augment.apply import apply
from fracgen.train.augment.draws import (
    HFLIP,
    VFLIP,
    Layer,
    draw_augment,
    draw_crops,
    draw_erased,
    draw_jitter,
    draw_layers,
)
from fracgen.train.augment.ops import Window, erase, resample, upload
from fracgen.train.augment.settings import Augmentation
from fracgen.train.texture import add_textures

Positions = npt.NDArray[np.int64]
Channels = tuple[float, float, float]


class DeviceAugment:
    """Turns batches of bytes into augmented, normalised batches, on one device."""

    def __init__(self, settings: Augmentation, *, seed: int, device: torch.device) -> None:
        self._settings, self._seed, self._device = settings, seed, device
        self._rand_augment = settings.rand_augment_rule
        self._gray_fill = len(set(settings.fill)) == 1
        self._fill = torch.tensor(settings.fill, dtype=torch.uint8, device=device).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, images: Tensor, positions: Positions) -> Tensor:
        """Augment one batch.

        Args:
            images: uint8 (B, C, H, W), C 1 or 3, on the device.
            positions: (B,) int64, the running number of each sample in the run, on the host.

        Returns:
            float32 (B, 3, size, size), normalised. Gray images become colour at the very end, which takes a third of
            the work.
        """
        settings = self._settings
        draws = draw_augment(self._seed, positions, self._rand_augment)
        boxes = draw_crops(draws, images.shape[2], images.shape[3], settings.scale, settings.ratio)
        rows = _window(boxes[:, 0], boxes[:, 2], settings.size, draws[:, VFLIP] < settings.vflip)
        columns = _window(boxes[:, 1], boxes[:, 3], settings.size, draws[:, HFLIP] < settings.hflip)
        canvas = resample(images, rows, columns, settings.size)
        if not self._gray_fill:
            canvas = canvas.expand(-1, 3, -1, -1).contiguous()
        if settings.texture:
            canvas = add_textures(canvas, settings.texture, self._seed, positions)
        rule = self._rand_augment
        order = np.arange(len(images))  # which sample stands where on the canvas
        for layer in draw_layers(draws, rule) if rule else draw_jitter(draws, settings.color_jitter):
            moved = layer.codes[order].argsort(kind="stable")
            order = order[moved]
            canvas = canvas.index_select(0, upload(moved, self._device))
            apply(canvas, Layer(layer.codes[order], layer.args[order]), self._fill[: canvas.shape[1]])
        canvas = canvas.index_select(0, upload(order.argsort(), self._device))
        out = normalise(canvas, settings.mean, settings.std)
        erase(out, *draw_erased(self._seed, positions, settings.erase, settings.size))
        return out


def _window(start: Positions, length: Positions, size: int, flipped: npt.NDArray[np.bool_]) -> Window:
    """One axis of crops, for an output of `size` pixels. start, length: of each crop, in source pixels."""
    step = length / size
    low = start.astype(np.float64)
    high = low + length
    return Window(np.where(flipped, high, low), np.where(flipped, -step, step), low, high)


def normalise(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Levels / 255, less mean, by std: uint8 (B, C, H, W) into float32 (B, 3, H, W)."""
    scale, shift = _scaling(tuple(mean), tuple(std), images.device)
    scaled: Tensor = images * scale
    return scaled.add_(shift)  # together a third of addcmul's time on a CPU


@cache
def _scaling(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    pairs = [[1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]]
    return torch.tensor(pairs, device=device).view(2, 3, 1, 1)


@dataclass(frozen=True)
class RgbTransform:
    """A transform that converts any image to RGB first; unlike a closure it can be sent to workers."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        """The transformed image. image: of any mode."""
        return self.transform(image.convert("RGB"))


def timm_transform(settings: Augmentation) -> Callable[[Image.Image], Tensor]:
    """timm's own pipeline of the same settings: a PIL image of any mode into float32 (3, size, size), normalised.

    It draws from Python's, numpy's and torch's global generators, which the caller seeds.
    Raises UsageError where the settings have textures, which timm has not.
    """
    if settings.texture:
        raise UsageError(f"augment.texture {settings.texture:g}: timm's pipeline has none; give --augment device")
    from timm.data.auto_augment import AugmentOp
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(
        (3, settings.size, settings.size),
        is_training=True,
        scale=settings.scale,
        ratio=settings.ratio,
        hflip=settings.hflip,
        vflip=settings.vflip,
        auto_augment=settings.rand_augment or None,
        color_jitter=settings.color_jitter,
        interpolation="bicubic",
        mean=settings.mean,
        std=settings.std,
        re_prob=settings.erase,
        re_mode="pixel",
    )
    # timm asks to keep 0 bits where the magnitude reaches 10 (1 of 44 at m9-mstd0.5), which Pillow 13 refuses
    for step in transform.transforms:
        for op in getattr(step, "ops", []):
            if isinstance(op, AugmentOp) and op.name.startswith("Posterize"):
                op.aug_fn = _posterize
    return RgbTransform(transform)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    kept = [level >> 8 - bits << 8 - bits for level in range(256)]
    return image.point(kept * len(image.getbands()))
