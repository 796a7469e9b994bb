"""Looks of a photograph: its centre square in colours, in gray, or its Canny edges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from fracgen.photo.opencv import opencv
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting

Look = Literal["canny", "gray", "rgb"]

BLUR = math.sqrt(2)
"""Sigma of the Gaussian before Canny, in pixels of a 512 px picture: that of MATLAB's `edge`."""
EDGE_SHARE = 0.2
"""Share of the gradients, of those that are not 0, above the high threshold, where none is given."""
LOW_OF_HIGH = 0.4
"""The low threshold, as a share of the high one: that of MATLAB's `edge`."""
_TIE = 0.002
"""Lengths that differ by less are the same: they are of float32."""


CANNY_FIELDS = ("blur", "low", "high")
"""The fields of a recipe that hold Canny's numbers: one, or one a photograph."""
Blur = Annotated[
    tuple[float, ...] | None,
    Setting(
        "Sigma of Canny's Gaussian in pixels; once, or once for each photograph.",
        at_least=0,
        at_most=100,
        panel="Edges",
        default="derived from the photograph",
    ),
]
Low = Annotated[
    tuple[float, ...] | None,
    Setting("Low threshold of Canny.", at_least=0, at_most=1e4, panel="Edges", default="0.4 of the high one"),
]
High = Annotated[
    tuple[float, ...] | None,
    Setting(
        "High threshold of Canny.",
        at_least=0,
        at_most=1e4,
        panel="Edges",
        default="a fifth of the gradients exceed it",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Canny:
    """The numbers of Canny's edges.

    blur: sigma in pixels; 0 leaves the picture as it is. low, high: thresholds of the gradient's length (Sobel, 3 x 3).
    Edges begin where the gradient is longer than `high`, and go on as long as it is longer than `low`.
    """

    blur: float
    low: float
    high: float

    def edges(self, gray: Image) -> Image:
        """uint8 (H, W): 255 on edges, 0 elsewhere."""
        edges: Image = opencv().Canny(_blurred(gray, self.blur), self.low, self.high, apertureSize=3, L2gradient=True)
        return edges


def derive_canny(gray: Image, *, blur: float | None, low: float | None, high: float | None) -> Canny:
    """Canny's numbers for a picture, uint8 (H, W), where they are not given.

    blur: sqrt(2) px at 512 px and in proportion, at least 1. high: what a fifth of the gradients' lengths exceed, of
    those that are not 0, in the blurred picture, to three digits after the point; where they tie there, so that less
    than half as many exceed it, the next length below; at least `low`, where that is given.
    low: 0.4 of high.
    """
    blur = max(1.0, round(BLUR * min(gray.shape) / 512, 3)) if blur is None else blur
    if high is None:
        cv2, picture = opencv(), _blurred(gray, blur)
        x, y = (cv2.Sobel(picture, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
        high = _exceeded_by_a_fifth(np.hypot(x, y))
        high = max(high, low or 0.0)
    low = round(LOW_OF_HIGH * high, 3) if low is None else low
    return Canny(blur=blur, low=low, high=high)


def _exceeded_by_a_fifth(lengths: npt.NDArray[np.floating]) -> float:
    lengths = lengths[lengths > 0]
    if not lengths.size:
        return 0.0
    high = round(float(np.quantile(lengths, 1 - EDGE_SHARE)), 3)
    if np.mean(lengths > high) < EDGE_SHARE / 2:  # straight edges of one strength, as a checkerboard's
        lower = lengths[lengths < high - _TIE]
        high = math.floor(1000 * float(lower.max() if lower.size else high / 2)) / 1000
    return high


def forget_derived(values: Mapping[str, Any], *, one_for_all: bool) -> dict[str, Any]:
    """A stored recipe's values without the numbers of Canny that were derived; those that were given stay.

    one_for_all: a number that all photographs share is given once, so that it holds for any number of them.
    """
    kept = dict(values)
    derived = kept.pop("derived", None)
    for name in derived if isinstance(derived, list | tuple) else ():
        kept.pop(name, None)
    for name in CANNY_FIELDS if one_for_all else ():
        numbers = kept.get(name)
        if isinstance(numbers, list | tuple) and numbers and all(number == numbers[0] for number in numbers):
            kept[name] = numbers[:1]
    return kept


def _blurred(gray: Image, blur: float) -> Image:
    picture: Image = opencv().GaussianBlur(gray, (0, 0), blur) if blur else gray
    return picture


def square(photograph: Image, size: int) -> Image:
    """The centre square of a photograph, (size, size) or (size, size, 3): area means where it shrinks, else cubic."""
    cv2, (height, width) = opencv(), photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = np.ascontiguousarray(photograph[top : top + side, left : left + side])
    if side == size:
        return cut
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    picture: Image = cv2.resize(cut, (size, size), interpolation=method)
    return picture


def to_gray(picture: Image) -> Image:
    """(H, W): 0.299 red + 0.587 green + 0.114 blue."""
    cv2 = opencv()
    gray: Image = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return gray


def to_rgb(picture: Image) -> Image:
    """(H, W, 3)."""
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
