"""A random texture in the place of an image's flat levels: our own design.

OFDB (Nakamura et al., ICCV 2023) is trained with "random pattern" and "random texture", of which neither was released.
What the published textures are is not known; these are procedural, no picture of anything. The law, for one image:

1. A field of random numbers by midpoint displacement (Fournier, Fussell and Carpenter 1982): 3 x 3 numbers uniform in
   (-1, 1), the corners of 2 x 2 cells; again and again twice as many cells, bilinear between the old corners, and each
   corner of refinement k moved by exp(-k decay) times another such number, while a cell has 4 pixels or more a side.
   It is scaled so that the lowest of the last corners is 0 and the highest 1; between them it is bilinear.
2. decay is uniform in [0.2, 0.9): from rough to cloudy. low is uniform in [20, 90), high in [160, 255).
3. A pixel of level v becomes v / 127 (low + (high - low) field), rounded, 255 at most: black stays black, and the gray
   of a fractal, 127, is low to high. All channels of a pixel have one factor.

What is drawn depends on (seed, number of the sample) alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fracgen.train.counter_noise import GOLDEN_RATIO, signed_uniforms
from fracgen.train.seeding import uniforms

DECAY = 0.2, 0.9
LOW, HIGH = (20.0, 90.0), (160.0, 255.0)
"""Ranges of the darkest and the brightest level in the place of GRAY."""
GRAY = 127.0
MIN_CELL = 4
"""Pixels of the smallest cells' sides, at least."""
CPU_CHUNK, DEVICE_CHUNK = 1 << 18, 1 << 26
"""Numbers that are computed at once: on a CPU they stay in its cache."""
_COLUMNS = 5
"""Uniform numbers of purpose "texture": whether, key of the noise, decay, low, high."""


def add_textures(images: Tensor, prob: float, seed: int, numbers: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
    """Images, of which each has a texture with probability `prob`; the same tensor where none has.

    images: uint8 (B, C, H, W), on any device. numbers: (B,), of the samples.
    """
    draws = uniforms(seed, "texture", numbers, _COLUMNS)
    chosen = np.flatnonzero(draws[:, 0] < prob)
    if not len(chosen):
        return images
    images = images.clone()
    pixels = images[0].numel()
    chunk = max(1, (CPU_CHUNK if images.device.type == "cpu" else DEVICE_CHUNK) // max(pixels, 1))
    for start in range(0, len(chosen), chunk):
        part = chosen[start : start + chunk]
        places = torch.from_numpy(part).to(images.device)
        levels = _factors(draws[part, 1:], images.shape[2], images.shape[3], images.device) * images[places]
        images.index_copy_(0, places, levels.add_(0.5).clamp_(max=255).byte())
    return images


def _factors(draws: npt.NDArray[np.float64], height: int, width: int, device: torch.device) -> Tensor:
    """What levels are multiplied by: (m, 1, H, W) float32. draws: (m, 4) key, decay, low, high, all in [0, 1)."""
    keys = torch.from_numpy((draws[:, 0] * 2**32).astype(np.uint32).view(np.int32)).to(device)
    decays, lows, highs = (
        torch.from_numpy((least + draws[:, column] * (most - least)).astype(np.float32)).to(device).view(-1, 1, 1)
        for column, (least, most) in enumerate((DECAY, LOW, HIGH), start=1)
    )
    corners = field_corners(keys, decays, max(height, width) // MIN_CELL)
    low = corners.amin((1, 2), keepdim=True)
    span = (corners.amax((1, 2), keepdim=True) - low).clamp_(min=1e-6)
    factors = ((corners - low) / span * (highs - lows) + lows).div_(GRAY)
    return _stretch(_stretch(factors, 2, width), 1, height)[:, None]  # last what copies whole rows


def field_corners(keys: Tensor, decays: Tensor, most_cells: int) -> Tensor:
    """Corners of fields of so many cells a side, a power of two of at least 2: (m, cells + 1, cells + 1) float32.

    keys: (m,) int32, of the noise. decays: (m, 1, 1) float32. most_cells: which the last refinement does not pass.
    """
    cells, refinement, first = 2, 0, 0
    corners = _noise(keys, cells + 1, first)
    while 2 * cells <= most_cells:
        first += (cells + 1) ** 2
        cells, refinement = 2 * cells, refinement + 1
        noise = torch.exp(-refinement * decays) * _noise(keys, cells + 1, first)
        corners = _refine(_refine(corners, 1), 2).add_(noise)
    return corners


def _noise(keys: Tensor, side: int, first: int) -> Tensor:
    """(m, side, side) uniform in (-1, 1): numbers `first` and on of each key's."""
    counters = torch.arange(first, first + side * side, dtype=torch.int32, device=keys.device)
    return signed_uniforms(counters * GOLDEN_RATIO ^ keys[:, None]).view(-1, side, side)


def _refine(field: Tensor, axis: int) -> Tensor:
    """Twice as many cells along an axis: corners as they were, their means between them."""
    length = field.shape[axis]
    means = (field.narrow(axis, 0, length - 1) + field.narrow(axis, 1, length - 1)).mul_(0.5)
    pairs = torch.stack([field.narrow(axis, 0, length - 1), means], axis + 1).flatten(axis, axis + 1)
    return torch.cat([pairs, field.narrow(axis, length - 1, 1)], axis)


def _stretch(field: Tensor, axis: int, size: int) -> Tensor:
    """`size` samples along an axis, at the middles of as many pixels, linear between corners."""
    cells = field.shape[axis] - 1
    places = (torch.arange(size, device=field.device) + 0.5) * (cells / size)
    corners = places.long().clamp_(max=cells - 1)
    rest = (places - corners).view([-1 if each == axis else 1 for each in range(3)])
    slopes = field.narrow(axis, 1, cells) - field.narrow(axis, 0, cells)
    return slopes.index_select(axis, corners).mul_(rest).add_(field.index_select(axis, corners))
