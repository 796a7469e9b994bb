"""What augmentation does to which sample: boxes, flips, operations and their arguments, all drawn on the host.

Every row is a function of the seed and the sample's position in the run. Each draw has its own column of uniform
numbers, so that switching one thing off leaves the others as they were. Columns are append-only: runs are repeated by
their seed, so none changes its meaning; a new draw takes new columns. Purpose "augment":

    0 to 9, 10 to 19    area and aspect of ten attempts at a crop        20, 21    its top and left
    22, 23              horizontal and vertical flip                     24 to 27  colour jitter: three factors, order
    28 + 5 l onwards    layer l of RandAugment: operation, whether, sign, and two for the normal magnitude

Purpose "erase": 0 whether; 1 to 10, 11 to 20 area and aspect of ten attempts; 21, 22 top and left; 23 noise key.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from fracgen.train.augment.settings import RandAugment
from fracgen.train.seeding import uniforms

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OPERATIONS = (
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Brightness",
    "Contrast",
    "AutoContrast",
    "Equalize",
    "Sharpness",
    "Color",
    "Rotate",
    "ShearX",
    "TranslateX",
    "ShearY",
    "TranslateY",
)
"""timm's fifteen. An operation's code is its place here. The order matters: `apply` gives neighbours to one kernel."""
CODES = {name: code for code, name in enumerate(OPERATIONS)}
NOTHING = len(OPERATIONS)
"""Code of samples that are left as they are: the highest, so that a batch sorted by code has them last."""
MAX_LEVEL = 10.0
MIN_ERASED, MAX_ERASED, MIN_ERASED_ASPECT = 0.02, 1 / 3, 0.3
_JITTERED = [CODES[name] for name in ("Brightness", "Contrast", "Color")]
_JITTER_ORDERS = np.array(list(permutations(_JITTERED)), np.int64)
HFLIP, VFLIP = 22, 23
"""Columns of "augment" that decide on flips."""
_JITTER, _LAYERS, _LAYER_COLUMNS = 24, 28, 5
"""First column of colour jitter and of RandAugment, and how many columns each layer has."""


@dataclass(frozen=True)
class Layer:
    """One operation, or none, for each of B samples: of RandAugment (`num_layers` of them) or of colour jitter."""

    codes: Ints
    """(B,), places in OPERATIONS, or NOTHING."""
    args: Floats
    """(B,): degrees, bits kept, threshold, addend, factor, slope, or share of the width; 0 where there is none."""


def draw_crops(draws: Floats, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Ints:
    """Boxes of RandomResizedCrop as torchvision defines them: (B, 4) int64 top, left, height, width.

    The first of ten attempts that fits; else the middle, in the nearest allowed aspect.
    """
    areas = (scale[0] + draws[:, :10] * (scale[1] - scale[0])) * height * width
    low, high = np.log(ratio)
    aspects = np.exp(low + draws[:, 10:20] * (high - low))
    widths, heights = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(1)[:, None]
    sizes = np.concatenate([np.take_along_axis(each, first, 1) for each in (heights, widths)], 1)
    room = (height, width) - sizes + 1
    boxes = np.concatenate([np.floor(draws[:, 20:22] * room), sizes], 1).astype(np.int64)
    boxes[~fits.any(1)] = _middle(height, width, ratio)
    return boxes


def _middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    inside_height, inside_width = height, width
    if width / height < min(ratio):
        inside_height = max(1, round(width / min(ratio)))
    elif width / height > max(ratio):
        inside_width = max(1, round(height * max(ratio)))
    return (height - inside_height) // 2, (width - inside_width) // 2, inside_height, inside_width


def draw_layers(draws: Floats, settings: RandAugment) -> list[Layer]:
    """RandAugment's operations and arguments, by layer."""
    return [_draw_layer(draws[:, start : start + _LAYER_COLUMNS], settings) for start in _layer_starts(settings)]


def _layer_starts(settings: RandAugment) -> range:
    return range(_LAYERS, _LAYERS + _LAYER_COLUMNS * settings.num_layers, _LAYER_COLUMNS)


def _draw_layer(draws: Floats, settings: RandAugment) -> Layer:
    which, whether, sign, first, second = draws.T
    codes = (which * len(OPERATIONS)).astype(np.int64)
    codes[whether > settings.prob] = NOTHING
    if np.isinf(settings.std):
        levels = first * settings.magnitude
    else:  # Box and Muller; 1 - u is never 0
        levels = settings.magnitude + settings.std * np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)
    levels = levels.clip(0, MAX_LEVEL) / MAX_LEVEL
    signed = np.where(sign > 0.5, -levels, levels)
    by_code = arguments(levels, signed, increasing=settings.increasing)
    return Layer(codes, by_code[codes, np.arange(len(codes))])


def arguments(levels: Floats, signed: Floats, *, increasing: bool) -> Floats:
    """What timm gives to each operation at magnitude / 10 = `levels` (n,), with its random sign in `signed`.

    Returns:
        (16, n), by code; 0 where there is no argument.
    """
    fewer = np.floor(levels * 4)
    least = np.minimum(np.floor(levels * 256), 256)
    factors = np.maximum(0.1, 1 + signed * 0.9) if increasing else levels * 1.8 + 0.1
    args = np.zeros((NOTHING + 1, len(levels)))
    args[CODES["Posterize"]] = 4 - fewer if increasing else fewer
    args[CODES["Solarize"]] = 256 - least if increasing else least
    args[CODES["SolarizeAdd"]] = np.minimum(128, np.floor(levels * 110))
    args[[CODES[name] for name in ("Brightness", "Contrast", "Sharpness", "Color")]] = factors
    args[CODES["Rotate"]] = signed * 30
    args[[CODES["ShearX"], CODES["ShearY"]]] = signed * 0.3
    args[[CODES["TranslateX"], CODES["TranslateY"]]] = signed * 0.45
    return args


def draw_jitter(draws: Floats, strength: float) -> list[Layer]:
    """torchvision's ColorJitter: brightness, contrast and saturation in random order, as three layers."""
    low = max(0.0, 1 - strength)
    factors = low + draws[:, _JITTER : _JITTER + 3] * (1 + strength - low)
    orders = _JITTER_ORDERS[(draws[:, _JITTER + 3] * len(_JITTER_ORDERS)).astype(np.int64)]
    by_code = np.zeros((len(draws), len(OPERATIONS)))
    by_code[:, _JITTERED] = factors
    return [Layer(codes, np.take_along_axis(by_code, codes[:, None], 1)[:, 0]) for codes in orders.T]


def draw_augment(seed: int, positions: Ints, rand_augment: RandAugment | None) -> Floats:
    """The uniform numbers of purpose "augment", a row a sample."""
    num_layers = rand_augment.num_layers if rand_augment else 0
    return uniforms(seed, "augment", positions, _LAYERS + _LAYER_COLUMNS * num_layers)


def draw_erased(seed: int, positions: Ints, prob: float, size: int) -> tuple[Ints, Ints, Ints]:
    """Boxes of timm's RandomErasing in a square of `size`, for the m samples that have one.

    Returns:
        (m,) int64 places in the batch; (m, 4) int64 top, left, height, width; (m,) int64 noise keys < 2^32.
    """
    draws = uniforms(seed, "erase", positions, 24)
    areas = (MIN_ERASED + draws[:, 1:11] * (MAX_ERASED - MIN_ERASED)) * size * size
    aspects = np.exp(np.log(MIN_ERASED_ASPECT) * (1 - 2 * draws[:, 11:21]))
    heights, widths = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (widths < size) & (heights < size)
    samples = np.flatnonzero((draws[:, 0] <= prob) & fits.any(1) & (prob > 0))
    first = fits.argmax(1)[samples]
    sizes = np.stack([heights[samples, first], widths[samples, first]], 1)
    boxes = np.concatenate([np.floor(draws[samples, 21:23] * (size + 1 - sizes)), sizes], 1).astype(np.int64)
    return samples, boxes, (draws[samples, 23] * 2**32).astype(np.int64)
