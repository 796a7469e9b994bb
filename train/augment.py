"""Augmentation of training images on the device, batched, each sample with its own draws; and what timm does instead.

What happens to sample number n of a run depends on the seed and n alone, so that batches, ranks, workers and resuming
cannot change it. All draws are made on the host, and nothing is ever read back from the device.
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

from shards.errors import UsageError
from train.draws import Layer, RandAugment, draw_augment, draw_crops, draw_erased, draw_jitter, draw_layers
from train.imageops import Window, erase, resample, upload
from train.layers import apply

Positions = npt.NDArray[np.int64]
Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Every number that changes a pixel, with the published pre-training defaults.

    In order: RandomResizedCrop to `size`, flips, RandAugment or (only where that is '') colour jitter, normalisation
    by mean and std of levels in [0, 1], random erasing by N(0, 1) noise. Raises UsageError for a RandAugment that we do
    not have.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.5
    rand_augment: str = "rand-m9-n2-mstd0.5-inc1"
    color_jitter: float = 0.4
    erase: float = 0.5
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UsageError(f"crops of size {self.size}, scale {self.scale}, ratio {self.ratio}: give (least, most)")
        for name in ("hflip", "vflip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} {getattr(self, name)}: give a probability, 0 to 1")
        if self.color_jitter < 0 or min(self.std) <= 0:
            raise UsageError(f"color_jitter {self.color_jitter}, std {self.std}: give no less than 0, and more than 0")
        _ = self.rule

    @property
    def rule(self) -> RandAugment | None:
        """RandAugment's numbers, None where it is off."""
        return RandAugment.parse(self.rand_augment) if self.rand_augment else None

    @property
    def fill(self) -> tuple[int, ...]:
        """What comes into view from outside: the mean, as timm rounds it, 0 to 255."""
        return tuple(min(255, round(255 * mean)) for mean in self.mean)


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
        boxes = draw_crops(draws, *images.shape[2:], config.scale, config.ratio)
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
    scale, shift = _scaling(mean, std, images.device)
    return torch.addcmul(shift, images.float(), scale)


@cache
def _scaling(mean: Channels, std: Channels, device: torch.device) -> Tensor:
    pairs = [[1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]]
    return torch.tensor(pairs, device=device).view(2, 3, 1, 1)


@torch.no_grad()
def center(images: Tensor, size: int, crop: float, mean: Channels, std: Channels) -> Tensor:
    """timm's transform for clean images: the shorter side to size / crop, bicubic and antialiased; then the middle.

    Args:
        images: uint8 (B, C, H, W), C 1 or 3.
        size: side of the output, float32 (B, 3, size, size), normalised.
        crop: share of the shorter side that is shown, above 0, at most 1.
        mean, std: of levels in [0, 1].
    """
    whole = images.shape[2:]
    short = int(size / crop)
    windows = []
    for length in whole:
        resized = int(short * length / min(whole))
        first, step = round((resized - size) / 2), length / resized
        low = np.zeros(len(images))
        windows.append(Window(low + first * step, low + step, low, low + length))
    return normalise(resample(images, windows[0], windows[1], size), mean, std)


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
    from timm.data import create_transform
    from timm.data.auto_augment import AugmentOp

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
