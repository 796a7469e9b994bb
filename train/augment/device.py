"""Augmentation of training images on the device, batched, each sample with its own draws; and timm's own pipeline.

What happens to sample number n of a run depends on the seed and n alone, so that batches, ranks, workers and resuming
cannot change it. All draws are made on the host (0.7 ms for 256 samples), and nothing is read back from the device.

Against timm on Pillow, the same draws give the same levels, but for less than one in a thousand that is off by 1. Only
flips are folded into the crop's resampling: two geometric operations in one are not what Pillow makes of them one after
the other (rotate 20 degrees, shear 0.2: 5 levels apart on average), and only 1 sample in 36 draws two.

Kornia 0.9 was measured beside this, on two cores: whole pipeline 10,000 images/s (here 19,500) for colour 32 px, 8,200
(21,700) for gray 64 to 32 px, 96 (810) for gray 512 to 224 px, although it does one operation for a whole batch. Its
crops are grid_sample's: not antialiased, a = -0.75; off from Pillow's by 1.2 to 14 levels on average (here 0.0001).
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

from fracgen.train.augment.apply import apply
from fracgen.train.augment.draws import Layer, draw_augment, draw_crops, draw_erased, draw_jitter, draw_layers
from fracgen.train.augment.ops import Window, erase, resample, upload
from fracgen.train.augment.settings import Augmentation

Positions = npt.NDArray[np.int64]
Channels = tuple[float, float, float]


class DeviceAugment:
    """Batches of bytes into augmented, normalised batches, on one device."""

    def __init__(self, config: Augmentation, *, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device = config, seed, device
        self._rule = config.rule
        self._gray_fill = len(set(config.fill)) == 1
        self._fill = torch.tensor(config.fill, dtype=torch.uint8, device=device).view(3, 1, 1)

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
        config = self.config
        draws = draw_augment(self.seed, positions, self._rule)
        boxes = draw_crops(draws, images.shape[2], images.shape[3], config.scale, config.ratio)
        rows = _window(boxes[:, 0], boxes[:, 2], config.size, draws[:, 23] < config.vflip)
        columns = _window(boxes[:, 1], boxes[:, 3], config.size, draws[:, 22] < config.hflip)
        canvas = resample(images, rows, columns, config.size)
        if not self._gray_fill:
            canvas = canvas.expand(-1, 3, -1, -1).contiguous()
        order = np.arange(len(images))  # which sample stands where on the canvas
        for layer in draw_layers(draws, self._rule) if self._rule else draw_jitter(draws, config.color_jitter):
            moved = layer.codes[order].argsort(kind="stable")
            order = order[moved]
            canvas = canvas.index_select(0, upload(moved, self.device))
            apply(canvas, Layer(layer.codes[order], layer.args[order]), self._fill[: canvas.shape[1]])
        canvas = canvas.index_select(0, upload(order.argsort(), self.device))
        out = normalise(canvas, config.mean, config.std)
        erase(out, *draw_erased(self.seed, positions, config.erase, config.size))
        return out


def _window(start: Positions, length: Positions, size: int, flipped: npt.NDArray[np.bool_]) -> Window:
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
class _Converted:
    """A transform of RGB images, for any image; unlike a closure it can be sent to workers."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image.convert("RGB"))


def timm_transform(config: Augmentation) -> Callable[[Image.Image], Tensor]:
    """timm's own pipeline of the same settings: a PIL image of any mode into float32 (3, size, size), normalised.

    It draws from Python's, numpy's and torch's global generators, which the caller seeds.
    """
    from timm.data.auto_augment import AugmentOp
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(
        (3, config.size, config.size),
        is_training=True,
        scale=config.scale,
        ratio=config.ratio,
        hflip=config.hflip,
        vflip=config.vflip,
        auto_augment=config.rand_augment or None,
        color_jitter=config.color_jitter,
        interpolation="bicubic",
        mean=config.mean,
        std=config.std,
        re_prob=config.erase,
        re_mode="pixel",
    )
    # timm asks to keep 0 bits where the magnitude reaches 10 (1 of 44 at m9-mstd0.5), which Pillow 13 refuses
    for step in transform.transforms:
        for op in getattr(step, "ops", []):
            if isinstance(op, AugmentOp) and op.name.startswith("Posterize"):
                op.aug_fn = _posterize
    return _Converted(transform)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    kept = [level >> 8 - bits << 8 - bits for level in range(256)]
    return image.point(kept * len(image.getbands()))
