"""Pictures through a matrix or a map, by OpenCV: linear between pixels, a mean of samples where a warp shrinks."""

import numpy as np
import numpy.typing as npt

from fracgen.ifs import Floats
from fracgen.photo.matrices import product
from fracgen.photo.opencv import opencv
from fracgen.shards.sample import Image


def warp_matrix(
    picture: Image, matrix: Floats, size: int, fineness: tuple[int, int] = (1, 1), *, extend: bool = False
) -> Image:
    """A picture through a matrix: (size, size), linear between its pixels, black outside.

    fineness: samples of a pixel along a row and along a column, of which it is the mean.
    extend: its border pixels go on outside instead.
    """
    (x, y), cv2 = fineness, opencv()
    fine = product(np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]), matrix)
    border = cv2.BORDER_REPLICATE if extend else cv2.BORDER_CONSTANT
    warped = cv2.warpPerspective(
        picture, fine, (size * x, size * y), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=0
    )
    return _mean(warped, size)


def warp_map(picture: Image, sources: npt.NDArray[np.float32], size: int) -> Image:
    """A picture through a map in its pixels, (2, m, n) float32, m and n multiples of size; else `warp_matrix`."""
    cv2 = opencv()
    warped = cv2.remap(picture, *sources, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return _mean(warped, size)


def pixel_places(size: int, fineness: int = 1) -> Floats:
    """Where the samples of an image lie along an axis, (2, size * fineness): in the frame, and in pixels."""
    pixels = (np.arange(size * fineness) + 0.5) / fineness - 0.5
    return np.stack([(2 * pixels + 1) / size - 1, pixels])


def _mean(fine: Image, size: int) -> Image:
    cv2 = opencv()
    whole = fine.shape[:2] == (size, size)
    image: Image = fine if whole else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return image
