"""The evaluation transform, as timm has it, on the host and on the device: resize, middle, normalisation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fracgen.train.augment.device import Channels, normalise
from fracgen.train.augment.ops import Window, resample


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """The shorter side to int(size / crop) pixels, bicubic and antialiased; the middle of it; (levels - mean) / std.

    size: side of the output. crop: share of the shorter side that is shown, above 0, at most 1. mean, std: of levels in
    [0, 1]. Picklable, for workers. Both versions give the same levels, but for a few that are off by 1.
    """

    size: int
    crop: float
    mean: Channels
    std: Channels

    @property
    def _short_side(self) -> int:
        return int(self.size / self.crop)

    def levels(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop with Pillow: mode L into (1, size, size), any other mode into (3, size, size)."""
        picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        shorter = min(picture.size)
        width, height = (int(self._short_side * side / shorter) for side in picture.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        planes = np.asarray(picture.crop((left, top, left + self.size, top + self.size)))
        return planes[None] if planes.ndim == 2 else np.ascontiguousarray(planes.transpose(2, 0, 1))

    def __call__(self, picture: Image.Image) -> Tensor:
        """The host version: a picture of any mode into float32 (3, size, size)."""
        return normalise(torch.from_numpy(self.levels(picture).copy())[None], self.mean, self.std)[0]

    @torch.no_grad()
    def on_device(self, images: Tensor) -> Tensor:
        """The device version: uint8 (B, C, H, W), C 1 or 3, into float32 (B, 3, size, size)."""
        whole = images.shape[2:]
        windows = []
        for length in whole:
            resized = int(self._short_side * length / min(whole))
            first, step = round((resized - self.size) / 2), length / resized
            low = np.zeros(len(images))
            windows.append(Window(low + first * step, low + step, low, low + length))
        return normalise(resample(images, windows[0], windows[1], self.size), self.mean, self.std)
