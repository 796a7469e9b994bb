"""How an orbit becomes an image, how full an image is, and the ranges of both: what needs no kernels."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting, check_settings

DrawMode = Literal["patch", "point"]
ColorMode = Literal["gray", "color", "map"]
PatchMode = Literal["random", "fill"]

MAX_SIZE = 8192
"""Twice as much, and readers take the image for a decompression bomb."""
MAX_POINTS = 10_000_000

Size = Annotated[int, Setting("Width and height of an image in pixels.", at_least=8, at_most=MAX_SIZE, panel="Image")]
Pad = Annotated[int, Setting("Black border in pixels, less than half of the size.", at_least=0, panel="Image")]
Points = Annotated[int, Setting("Points of an orbit.", at_least=2, at_most=MAX_POINTS, panel="Image")]
Draw = Annotated[DrawMode, Setting("3 x 3 patches, or single pixels.", panel="Image")]
Color = Annotated[
    ColorMode, Setting("Gray, a hue by the point's number, or by the map that made the point.", panel="Image")
]
Patch = Annotated[PatchMode, Setting("Masks of the patches: random ones, or all pixels.", panel="Image")]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an orbit becomes an image: gray is 127 on black; the points, T in the papers, include (0, 0)."""

    size: Size = 512
    pad: Pad = 6
    points: Points = 100_000
    draw: Draw = "patch"
    color: Color = "gray"
    patch: Patch = "random"

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)
        check_range("pad", self.pad, 0, (self.size - 1) // 2, f"pixels, less than half of size {self.size}")

    @property
    def random_masks(self) -> bool:
        """Whether an image in this style depends on random masks."""
        return self.draw == "patch" and self.patch == "random"


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raises UsageError where `value` is not in [low, high] (NaN is not)."""
    if not low <= value <= high:
        raise UsageError(f"{name} {value}: must be {low} to {high} {unit}".rstrip())


def fill_rate(image: Image) -> float:
    """Share of pixels that are not black."""
    lit = image if image.ndim == 2 else image.any(axis=2)
    return int(np.count_nonzero(lit)) / int(lit.size)
