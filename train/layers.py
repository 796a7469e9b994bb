"""One layer of RandAugment or colour jitter: each operation on those samples of a batch that drew it.

Who drew what is known on the host, so that each kernel gets its few images and no other is touched.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from train import imageops
from train.draws import CODES, Floats, Ints, Layer
from train.imageops import upload

Step = tuple[Callable[..., Tensor], Ints, list[npt.NDArray[Any]]]
"""A kernel, the places in the batch that it is for, and its arguments for each."""

_LEVELS = np.arange(256)
_BY_TABLE = ("Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness")
_MEASURED = {"AutoContrast": imageops.auto_contrast, "Equalize": imageops.equalize}
_BY_FACTOR = {"Contrast": imageops.contrast, "Sharpness": imageops.sharpness, "Color": imageops.color}


def apply(canvas: Tensor, layer: Layer, fill: Tensor) -> None:
    """Do one layer, in place.

    Args:
        canvas: uint8 (B, C, S, S).
        layer: operations of the B samples.
        fill: (C, 1, 1) uint8, what comes into view from outside.
    """
    for kernel, whose, args in _steps(layer, canvas.shape[2], fill):
        if len(whose):
            places = upload(whose, canvas.device)
            sent = [upload(arg, canvas.device) for arg in args]
            canvas.index_copy_(0, places, kernel(canvas.index_select(0, places), *sent))


def _steps(layer: Layer, size: int, fill: Tensor) -> Iterator[Step]:
    def who(*names: str) -> Ints:
        return np.flatnonzero(np.isin(layer.codes, [CODES[name] for name in names]))

    whose = who(*_BY_TABLE)
    yield imageops.look_up, whose, [tables(layer.codes[whose], layer.args[whose])]
    for name, kernel in _MEASURED.items():
        yield kernel, who(name), []
    for name, kernel in _BY_FACTOR.items():
        if name != "Color" or len(fill) > 1:  # gray has none to change
            yield kernel, (whose := who(name)), [layer.args[whose].astype(np.float32)]
    whose = who("Rotate")
    angles = np.radians(layer.args[whose])
    yield partial(imageops.rotate, fill=fill), whose, [np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)]
    across = who("ShearX", "TranslateX")
    whose = np.concatenate([across, who("ShearY", "TranslateY")])
    whole, rest = _distances(layer.codes[whose], layer.args[whose], size)
    yield partial(imageops.slide, num_across=len(across), fill=fill), whose, [whole, rest]


def tables(codes: Ints, args: Floats) -> npt.NDArray[np.uint8]:
    """New levels of the operations that need only the old ones: (n, 256)."""
    out = np.empty((len(codes), 256), np.uint8)
    for row, code, arg in zip(out, codes, args, strict=True):
        row[:] = _TABLES[code](arg)
    return out


_TABLES: dict[int, Callable[[float], npt.NDArray[Any]]] = {
    CODES["Invert"]: lambda _: 255 - _LEVELS,
    CODES["Posterize"]: lambda bits: _LEVELS >> 8 - int(bits) << 8 - int(bits),
    CODES["Solarize"]: lambda threshold: np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS),
    CODES["SolarizeAdd"]: lambda add: np.where(_LEVELS < 128, np.minimum(255, _LEVELS + int(add)), _LEVELS),
    CODES["Brightness"]: lambda factor: np.minimum(255, np.float32(factor) * _LEVELS.astype(np.float32)),
}


def _distances(codes: Ints, args: Floats, size: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    """How far each row (or column) slides, in whole pixels and the rest: (n, S) each."""
    sheared = np.isin(codes, [CODES["ShearX"], CODES["ShearY"]])
    distances = np.where(sheared[:, None], args[:, None] * (np.arange(size) + 0.5), args[:, None] * size)
    whole = np.floor(distances)
    return whole.astype(np.int64), (distances - whole).astype(np.float32)
