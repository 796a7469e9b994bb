"""Applies a layer to a batch: one operation (or none) for each sample, of RandAugment or of colour jitter.

The host knows which sample drew what. The batch is sorted by operation, so that each kernel gets one slice.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fracgen.train.augment import ops as imageops
from fracgen.train.augment.draws import CODES, Layer
from fracgen.train.augment.ops import upload

_FIRST_TABLE = {CODES["Invert"]: 0, CODES["Posterize"]: 1, CODES["Solarize"]: 10, CODES["SolarizeAdd"]: 267}
"""Row of `_tables` for argument 0 of each operation whose argument is a whole number (or none); argument k: k rows on.

Posterize has 9 rows (0 to 8 bits), Solarize 257 (thresholds), SolarizeAdd 129 (addends).
"""


def apply(canvas: Tensor, layer: Layer, fill: Tensor) -> None:
    """Apply one layer, in place.

    Args:
        canvas: uint8 (B, C, S, S).
        layer: operations of the B samples, in ascending order of their codes; NOTHING, the highest, comes last.
        fill: (C, 1, 1) uint8, level of what comes into view from outside.
    """
    for first, last, kernel in _KERNELS:
        part = _span(layer, first, last)
        if part.start < part.stop:
            canvas[part] = kernel(canvas[part], Layer(layer.codes[part], layer.args[part]), fill)


def _span(layer: Layer, first: str, last: str) -> slice:
    """The samples whose operation is one of first..last in the order of OPERATIONS."""
    start, stop = np.searchsorted(layer.codes, (CODES[first], CODES[last] + 1)).tolist()
    return slice(start, stop)


@cache
def _tables(device: torch.device) -> Tensor:
    """The rows of _FIRST_TABLE: new levels by level, uint8 (396, 1, 256)."""
    levels = np.arange(256)
    tables = [255 - levels]
    tables += [levels >> 8 - bits << 8 - bits for bits in range(9)]
    tables += [np.where(levels < threshold, levels, 255 - levels) for threshold in range(257)]
    tables += [np.where(levels < 128, np.minimum(255, levels + addend), levels) for addend in range(129)]
    return torch.from_numpy(np.stack(tables).astype(np.uint8)[:, None]).to(device)


def _levels(images: Tensor, layer: Layer, _: Tensor) -> Tensor:
    """Operations that map each level to a new one, by a table for each sample."""
    numbered = _span(layer, "Invert", "SolarizeAdd")
    first = np.array([_FIRST_TABLE[code] for code in layer.codes[numbered].tolist()], np.int64)
    rows = upload(first + layer.args[numbered].astype(np.int64), images.device)
    scaled, contrasted = _span(layer, "Brightness", "Contrast"), _span(layer, "Contrast", "Contrast")
    centres = torch.zeros(scaled.stop - scaled.start, dtype=torch.int64, device=images.device)
    centres[contrasted.start - scaled.start :] = imageops.mean_levels(images[contrasted])
    tables = [
        _tables(images.device).index_select(0, rows),
        imageops.scale_levels(centres, _factors(layer, scaled, images.device)),
        imageops.auto_contrast(images[_span(layer, "AutoContrast", "AutoContrast")]),
        imageops.equalize(images[_span(layer, "Equalize", "Equalize")]),
    ]
    return imageops.look_up(images, torch.cat([table.expand(-1, images.shape[1], -1) for table in tables]))


def _factors(layer: Layer, part: slice, device: torch.device) -> Tensor:
    return upload(layer.args[part].astype(np.float32), device)


def _sharpness(images: Tensor, layer: Layer, _: Tensor) -> Tensor:
    return imageops.sharpness(images, _factors(layer, slice(None), images.device))


def _color(images: Tensor, layer: Layer, _: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return imageops.color(images, _factors(layer, slice(None), images.device))


def _rotate(images: Tensor, layer: Layer, fill: Tensor) -> Tensor:
    angles = np.radians(layer.args)
    turns = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    return imageops.rotate(images, upload(turns, images.device), fill=fill)


def _slide(images: Tensor, layer: Layer, fill: Tensor) -> Tensor:
    """Shears and translations: each row (or column) moves by its own distance, in pixels."""
    size = images.shape[3]
    sheared = (layer.codes == CODES["ShearX"]) | (layer.codes == CODES["ShearY"])
    distances = layer.args[:, None] * np.where(sheared[:, None], np.arange(size) + 0.5, size)
    whole_pixels = np.floor(distances)
    return imageops.slide(
        images,
        upload(whole_pixels.astype(np.int64), images.device),
        upload((distances - whole_pixels).astype(np.float32), images.device),
        num_along_x=_span(layer, "ShearX", "TranslateX").stop,
        fill=fill,
    )


_KERNELS: tuple[tuple[str, str, Callable[[Tensor, Layer, Tensor], Tensor]], ...] = (
    ("Invert", "Equalize", _levels),
    ("Sharpness", "Sharpness", _sharpness),
    ("Color", "Color", _color),
    ("Rotate", "Rotate", _rotate),
    ("ShearX", "TranslateY", _slide),
)
"""First and last operation of each slice, in the order of OPERATIONS, and the kernel that does all of them."""
