"""Measures of single images: fill rate, box-counting dimension, lacunarity, compressibility.

All but the last are of two levels: what differs from the ground, which is black, or white where a set is on white.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fracgen.shards.png import encode_png
from fracgen.shards.sample import Image
from fracgen.style import fill_rate

BLACK, WHITE = 0, 255
_LEAST_BOX, _LEAST_SIDE = 4, 64
"""Boxes have at least so many pixels where an image's shorter side has so many: more than the 3 x 3 patch."""


@dataclass(frozen=True, kw_only=True)
class ImageMeasures:
    """What one image is.

    fill_rate: share of pixels that are not ground, 0 to 1. dimension: box-counting dimension, 0 to 2; NaN of a blank
    image, or one of less than 8 pixels. lacunarity: by the size of the gliding box, as `boxes` has them, largest
    first; NaN of a blank image. bytes_per_pixel: of its PNG. digest: of its pixels and shape; equal images have one.
    """

    fill_rate: float
    dimension: float
    boxes: tuple[int, ...]
    lacunarity: tuple[float, ...]
    bytes_per_pixel: float
    digest: bytes

    @property
    def mean_lacunarity(self) -> float:
        """Mean over the box sizes; NaN where there are none."""
        return float(np.mean(self.lacunarity)) if self.lacunarity else np.nan


def measure_image(image: Image, ground: int = BLACK) -> ImageMeasures:
    """Measure one image. ground: BLACK or WHITE, what the image is drawn on."""
    lit = lit_pixels(image, ground)
    boxes = box_sizes(min(lit.shape))
    dimension, lacunarity = measure_boxes(lit, boxes)
    height, width = lit.shape
    return ImageMeasures(
        fill_rate=fill_rate(lit),  # type: ignore[arg-type]  # of booleans as of bytes
        dimension=dimension,
        boxes=boxes,
        lacunarity=lacunarity,
        bytes_per_pixel=len(encode_png(np.ascontiguousarray(image))) / (height * width),
        digest=hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest(),
    )


def lit_pixels(image: Image, ground: int) -> npt.NDArray[np.bool_]:
    """Where an image differs from its ground: (H, W)."""
    lit: npt.NDArray[np.bool_] = image != ground
    return lit if image.ndim == 2 else np.logical_or.reduce(lit, axis=2)


def find_ground(images: Iterable[Image]) -> int:
    """WHITE where more pixels of these images are white than black, else BLACK."""
    black = white = 0
    for image in images:
        black += int(np.count_nonzero(~lit_pixels(image, BLACK)))
        white += int(np.count_nonzero(~lit_pixels(image, WHITE)))
    return WHITE if white > black else BLACK


def box_sizes(side: int) -> tuple[int, ...]:
    """Sizes of boxes in pixels, largest first: powers of two up to a quarter of the shorter side of an image.

    Down to 4 pixels, which is more than a patch has; below 64 pixels, where too few would be left, down to 1.
    """
    least = _LEAST_BOX if side >= _LEAST_SIDE else 1
    sizes = [1 << power for power in range(side.bit_length()) if least <= 1 << power <= side // 4]
    return tuple(reversed(sizes))


def measure_boxes(lit: npt.NDArray[np.bool_], boxes: tuple[int, ...]) -> tuple[float, tuple[float, ...]]:
    """(box-counting dimension, lacunarity by box size) of a two-level image, (H, W).

    The dimension is the slope of the least-squares line through ln N(s) over ln(1/s), N(s) the least number of boxes of
    side s that hold all lit pixels, over all offsets of their grid (box counting as Gonzato 1998 describes it; least
    count and largest box as Foroutan-pour et al. 1999 advise). The lacunarity is E[M^2] / E[M]^2 of the lit pixels M in
    a box that glides over the image (Plotnick et al. 1996). NaN where nothing is lit, and for
    the dimension where there are fewer than two sizes.
    """
    from fracgen.score_kernels import box_moments, count_boxes, sum_table

    if not lit.any():
        return np.nan, (np.nan,) * len(boxes)
    table = np.empty((lit.shape[0] + 1, lit.shape[1] + 1), np.uint32)
    sum_table(lit, table)
    counts = [count_boxes(table, side, np.empty((side, side), np.uint32)) for side in boxes]
    moments = [box_moments(table, side) for side in boxes]
    lacunarity = tuple(float(squares / mean**2) if mean else np.nan for mean, squares in moments)
    if len(boxes) < 2:
        return np.nan, lacunarity
    x, y = -np.log(boxes), np.log(counts)
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x * x).sum()), lacunarity
