"""Random crops of one photograph, each a class (Asano et al., "A critical analysis of self-supervision", ICLR 2020).

Their released script cuts a square of half the shorter side at random, then a part of it with an area of 1/500 to 1
and sides of 3:4 to 4:3, turns and shears it by up to 30 degrees each, cuts out the centre, of 1/sqrt(2) of the side,
and jitters its colours with probability 0.5; mirroring is left to training there.

Ours is a set of its own that takes its kinds of change, and most numbers, from there, and differs: areas are shares
of the whole photograph, 1/500 to 1/4 by default; no centre is cut out after a turn; colours are always jittered. One
affine map does all of it, so that a photograph is sampled once; what a turned crop has beyond its sides is more of
the photograph, and black beyond that.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from fracgen.ifs import Floats
from fracgen.photo.extent import Extent, fineness, judge_matrix
from fracgen.photo.matrices import inverse, product
from fracgen.photo.opencv import opencv
from fracgen.photo.resample import warp_matrix
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting, check_settings
from fracgen.style import check_range

Level = Image
"""A photograph, or a reduction of it by a power of two."""
SIDES_DRAWN = 10
"""How often the sides of a crop are drawn, where it does not fit into the photograph."""
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


MinScale = Annotated[
    float, Setting("Least area of a crop, as a share of the photograph's.", at_least=1e-6, at_most=1, panel="Crops")
]
MaxScale = Annotated[
    float, Setting("Greatest area of a crop, as a share of the photograph's.", at_least=1e-6, at_most=1, panel="Crops")
]
MaxRatio = Annotated[
    float, Setting("Sides of a crop: up to this to one, either way.", at_least=1, at_most=100, panel="Crops")
]
Rotation = Annotated[float, Setting("Turn of a crop in degrees, either way.", at_least=0, at_most=180, panel="Crops")]
Shear = Annotated[float, Setting("Shear of a crop in degrees, either way.", at_least=0, at_most=80, panel="Crops")]
Flip = Annotated[float, Setting("Probability that a crop is a mirror image.", at_least=0, at_most=1, panel="Crops")]
Brightness = Annotated[
    float, Setting("Factors of brightness, from 1 - this to 1 + this.", at_least=0, at_most=1, panel="Crops")
]
Contrast = Annotated[
    float, Setting("Factors of contrast, from 1 - this to 1 + this.", at_least=0, at_most=1, panel="Crops")
]
Saturation = Annotated[
    float, Setting("Factors of saturation, from 1 - this to 1 + this.", at_least=0, at_most=1, panel="Crops")
]
Hue = Annotated[
    float, Setting("Shift of the hue as a share of a turn, either way.", at_least=0, at_most=0.5, panel="Crops")
]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One crop.

    matrix: (3, 3), from the photograph's pixels to the image's. color: (3, 4), or (1, 2) for gray: what a pixel is
    multiplied by, and what is added, last. extent: what the image covers, and shows, of the photograph.
    level: how often the photograph is halved before, so that none of its pixels is left out.
    inside: whether all of the image is covered.
    """

    matrix: Floats
    color: Floats
    size: int
    level: int
    extent: Extent
    inside: bool

    @property
    def fill(self) -> float:
        """The share of the image that the photograph covers."""
        return self.extent.covered

    @property
    def fineness(self) -> tuple[int, int]:
        """Samples of a pixel along a row and along a column; the level has its share of the reduction."""
        return fineness(self.extent.across / (1 << self.level)), fineness(self.extent.down / (1 << self.level))

    def metadata(self) -> Mapping[str, Any]:
        """What reproduces it."""
        return {
            "matrix": self.matrix.tolist(),
            "color": self.color.tolist(),
            "level": self.level,
            "fineness": list(self.fineness),
        }

    def apply(self, levels: list[Level]) -> tuple[Image, Image | None]:
        """The image, the photograph's border going on outside; and how far it covers each pixel, 0 to 255, or all."""
        cv2, picture = opencv(), levels[self.level]
        (height, width), (rows, columns) = levels[0].shape[:2], picture.shape[:2]
        x, y = width / columns, height / rows
        matrix = product(self.matrix, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]))
        image = warp_matrix(picture, matrix, self.size, self.fineness, extend=True)
        image = cv2.transform(image, self.color)
        if self.inside:
            return image, None
        return image, warp_matrix(np.full(picture.shape[:2], 255, np.uint8), matrix, self.size, self.fineness)

    @staticmethod
    def on_black(image: Image, covered: Image) -> Image:
        """Black where nothing covers."""
        share = covered.astype(np.uint16)
        share = share[:, :, None] if image.ndim == 3 else share
        return ((image * share + 127) // 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class CropRanges:
    """What crops are drawn from; all of it uniform.

    min_scale, max_scale: area of a crop, as a share of the photograph's. max_ratio: of its sides, up to this to one
    and one to this, uniform in the logarithm. Sides that are longer than the photograph's are drawn again, up to ten
    times in all; then the crop is the largest with such a ratio that `max_scale` allows, be it less than `min_scale`.
    rotation, shear: up to so many degrees either way. flip: probability of
    a mirror image. brightness, contrast, saturation: factors 1 - this to 1 + this; hue: up to this share of a turn
    either way (in YIQ).
    """

    min_scale: MinScale
    max_scale: MaxScale
    max_ratio: MaxRatio
    rotation: Rotation
    shear: Shear
    flip: Flip
    brightness: Brightness
    contrast: Contrast
    saturation: Saturation
    hue: Hue

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)
        check_range("max_scale", self.max_scale, self.min_scale, 1)

    def draw(self, random: Callable[[], float], levels: list[Level], size: int) -> Crop:
        """The crop that numbers in [0, 1) give."""
        photograph = levels[0]
        height, width = photograph.shape[:2]

        def within(reach: float) -> float:
            return reach * (2 * random() - 1)

        across, down = self._sides(random, width, height)
        left, top = random() * (width - across), random() * (height - down)
        angle, lean = math.radians(within(self.rotation)), math.tan(math.radians(within(self.shear)))
        side = -1.0 if random() < self.flip else 1.0
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        lean_matrix, mirror = np.array([[1.0, lean], [0.0, 1.0]]), np.diag([side, 1.0])
        linear = product(np.diag([across / size, down / size]), turn, lean_matrix, mirror)
        centre = np.array([left + (across - 1) / 2, top + (down - 1) / 2])
        back = np.eye(3)
        back[:2, :2], back[:2, 2] = linear, centre - linear.sum(axis=1) * ((size - 1) / 2)
        matrix = inverse(back)
        corners = product(back, np.array([[x, y, 1.0] for x in (0, size - 1) for y in (0, size - 1)]).T)
        inside = bool((corners[:2].min(axis=1) >= 0).all() and (corners[0].max() <= width - 1))
        extent = judge_matrix(matrix, width, height, size, mirrored=side < 0)
        brightness, contrast = 1 + within(self.brightness), 1 + within(self.contrast)
        saturation, hue = 1 + within(self.saturation), within(self.hue)
        return Crop(
            matrix=matrix,
            color=_color(float(photograph.mean()), photograph.ndim == 3, brightness, contrast, saturation, hue),
            size=size,
            level=min(int(math.log2(max(extent.across, extent.down, 1.0))), len(levels) - 1),
            extent=extent,
            inside=inside and bool(corners[1].max() <= height - 1),
        )

    def _sides(self, random: Callable[[], float], width: int, height: int) -> tuple[float, float]:
        """Of a crop, in pixels; ten are drawn at most, and the last resort is the largest with a ratio in the range.

        The rule is torchvision's for RandomResizedCrop, but for `max_scale`, which holds here for the last resort too.
        """
        for _ in range(SIDES_DRAWN):
            area = (self.min_scale + (self.max_scale - self.min_scale) * random()) * width * height
            ratio = math.exp(math.log(self.max_ratio) * (2 * random() - 1))
            across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if across <= width and down <= height:
                return across, down
        across, down = min(width, height * self.max_ratio), min(height, width * self.max_ratio)
        shrink = math.sqrt(min(self.max_scale * width * height / (across * down), 1.0))
        return across * shrink, down * shrink


def _color(mean: float, rgb: bool, brightness: float, contrast: float, saturation: float, hue: float) -> Floats:
    """Brightness, then contrast about the photograph's mean, then saturation, then hue, as one matrix."""
    gain, offset = brightness * contrast, brightness * (1 - contrast) * mean
    if not rgb:
        return np.array([[gain, offset]])
    turn = 2 * math.pi * hue
    cos, sin = math.cos(turn), math.sin(turn)
    hues = product(inverse(_YIQ), np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]), _YIQ)
    colors = product(hues, saturation * np.eye(3) + (1 - saturation) * _LUMA)
    return np.column_stack([gain * colors, np.full(3, offset)])


def levels_of(photograph: Image) -> list[Level]:
    """A photograph and its halves, area means, down to a side of 8 pixels."""
    cv2, levels = opencv(), [photograph]
    height, width = photograph.shape[:2]
    while min(height, width) >> len(levels) >= 8:
        half = (round(width / 2 ** len(levels)), round(height / 2 ** len(levels)))
        levels.append(cv2.resize(photograph, half, interpolation=cv2.INTER_AREA))
    return levels
