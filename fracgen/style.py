"""How an orbit becomes an image, how full an image is, and checks of a recipe's values: what needs no kernels."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image

DrawMode = Literal["patch", "point"]
ColorMode = Literal["gray", "color"]
PatchMode = Literal["random", "fill"]

MAX_SIZE = 8192
"""Twice as much, and readers take the image for a decompression bomb."""
MAX_POINTS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an orbit becomes an image.

    size: width and height in pixels. pad: border in pixels. points: length T of the orbit, (0, 0) included.
    draw: single pixels, or 3 x 3 patches with `patch` masks. color: gray 127 on black, or hue by point index.
    """

    size: int = 512
    pad: int = 6
    points: int = 100_000
    draw: DrawMode = "patch"
    color: ColorMode = "gray"
    patch: PatchMode = "random"

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_range("size", self.size, 8, MAX_SIZE, "pixels")
        check_range("pad", self.pad, 0, (self.size - 1) // 2, f"pixels, less than half of size {self.size}")
        check_range("points", self.points, 2, MAX_POINTS, "points")
        check_choice("draw", self.draw, DrawMode)
        check_choice("color", self.color, ColorMode)
        check_choice("patch", self.patch, PatchMode)

    @property
    def random_masks(self) -> bool:
        """Whether an image in this style depends on random masks."""
        return self.draw == "patch" and self.patch == "random"


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raises UsageError where `value` is not in [low, high] (NaN is not)."""
    if not low <= value <= high:
        raise UsageError(f"{name.replace('_', '-')} {value}: must be {low} to {high} {unit}".rstrip())


def check_choice(name: str, value: object, choices: object) -> None:
    """Raises UsageError where `value` is none of a Literal's words."""
    if value not in get_args(choices):
        raise UsageError(f"{name} {value!r}: must be one of {', '.join(get_args(choices))}")


def fill_rate(image: Image) -> float:
    """Share of pixels that are not black."""
    lit = image if image.ndim == 2 else image.any(axis=2)
    return int(np.count_nonzero(lit)) / int(lit.size)
