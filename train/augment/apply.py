"""One layer of RandAugment or colour jitter: each operation on those samples of a batch that drew it.

Who drew what is known on the host. The batch stands in the order of the operations, so that each kernel gets one slice.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fracgen.train.augment import ops as imageops
from fracgen.train.augment.draws import CODES, Layer
from fracgen.train.augment.ops import upload

_BY_NUMBER = {CODES["Invert"]: 0, CODES["Posterize"]: 1, CODES["Solarize"]: 10, CODES["SolarizeAdd"]: 267}
"""Operations whose table of levels depends on one whole number at most: which table is that of number 0."""


def apply(canvas: Tensor, layer: Layer, fill: Tensor) -> None:
    """Do one layer, in place.

    Args:
        canvas: uint8 (B, C, S, S).
        layer: operations of the B samples, in ascending order of their codes.
        fill: (C, 1, 1) uint8, what comes into view from outside.
    """
    for first, last, kernel in _KERNELS:
        part = _span(layer, first, last)
        if part.start < part.stop:
            canvas[part] = kernel(canvas[part], Layer(layer.codes[part], layer.args[part]), fill)


def _span(layer: Layer, first: str, last: str) -> slice:
    start, stop = np.searchsorted(layer.codes, (CODES[first], CODES[last] + 1)).tolist()
    return slice(start, stop)


@cache
def _tables(device: torch.device) -> Tensor:
    """The tables of _BY_NUMBER, uint8 (396, 1, 256)."""
    levels = np.arange(256)
    tables = [255 - levels]
    tables += [levels >> 8 - bits << 8 - bits for bits in range(9)]
    tables += [np.where(levels < threshold, levels, 255 - levels) for threshold in range(257)]
    tables += [np.where(levels < 128, np.minimum(255, levels + addend), levels) for addend in range(129)]
    return torch.from_numpy(np.stack(tables).astype(np.uint8)[:, None]).to(device)


def _levels(images: Tensor, layer: Layer, _: Tensor) -> Tensor:
    """All operations that give each level a new one."""
    numbered = _span(layer, "Invert", "SolarizeAdd")
    first = np.array([_BY_NUMBER[code] for code in layer.codes[numbered].tolist()], np.int64)
    which = upload(first + layer.args[numbered].astype(np.int64), images.device)
    spread, contrasted = _span(layer, "Brightness", "Contrast"), _span(layer, "Contrast", "Contrast")
    means = torch.zeros(spread.stop - spread.start, dtype=torch.int64, device=images.device)
    means[contrasted.start - spread.start :] = imageops.mean_levels(images[contrasted])
    tables = [
        _tables(images.device).index_select(0, which),
        imageops.spread(means, _factors(layer, spread, images.device)),
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
    """Shears and translations."""
    size = images.shape[3]
    sheared = (layer.codes == CODES["ShearX"]) | (layer.codes == CODES["ShearY"])
    distances = layer.args[:, None] * np.where(sheared[:, None], np.arange(size) + 0.5, size)
    whole = np.floor(distances)
    rest = upload((distances - whole).astype(np.float32), images.device)
    num_across = _span(layer, "ShearX", "TranslateX").stop
    whole_ = upload(whole.astype(np.int64), images.device)
    return imageops.slide(images, whole_, rest, num_across=num_across, fill=fill)


_KERNELS: tuple[tuple[str, str, Callable[[Tensor, Layer, Tensor], Tensor]], ...] = (
    ("Invert", "Equalize", _levels),
    ("Sharpness", "Sharpness", _sharpness),
    ("Color", "Color", _color),
    ("Rotate", "Rotate", _rotate),
    ("ShearX", "TranslateY", _slide),
)
"""First and last operation of each slice, and what does them."""
