"""What a warp does to a picture: how much of it the image shows, whether it folds, how far apart its samples lie."""

import math
from dataclasses import dataclass

import numpy as np

from fracgen.ifs import Floats
from fracgen.photo.matrices import inverse, product

LATTICE = 64
"""Cells along an axis in which a warp is judged."""
MAX_FINENESS = 4
"""Samples of a pixel along an axis, at most."""
SPACING = 1.25
"""How many of a picture's pixels two samples may be apart."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a warp does to a picture, judged in 64 x 64 cells of the image.

    covered: share of the image that the picture covers. visible: share of the picture that the image shows.
    folded: whether it turns over somewhere where the picture is shown. Of a matrix that is exact; of a polynomial the
    Jacobian is exact, at the 257 x 257 corners of 256 x 256 cells of the image, its border included; of an elastic warp
    the triangles are judged into which these corners cut it, so a fold within a few thousandths of the width passes.
    across, down: how far apart in the picture the centres of neighbouring
    pixels of a row, and of a column, come from; at most, in its pixels.
    """

    covered: float
    visible: float
    folded: bool
    across: float
    down: float

    @property
    def fill(self) -> float:
        """The lesser of `covered` and `visible`: a warp that leaves a corner, or shrinks to one, fills little."""
        return min(self.covered, self.visible)

    @property
    def fineness(self) -> tuple[int, int]:
        """Samples of a pixel along a row and along a column, 1 to 4: see `fineness`."""
        return fineness(self.across), fineness(self.down)


def fineness(distance: float) -> int:
    """Samples of a pixel along an axis, 1 to 4, so that they lie at most 1.25 of the picture's pixels apart.

    None of these is passed over then: what linear interpolation takes of one is at least 3/4, in all samples.
    distance: by which pixels are apart.
    """
    return min(max(math.ceil(distance / SPACING), 1), MAX_FINENESS)


def judge_matrix(matrix: Floats, width: int, height: int, size: int, *, mirrored: bool = False) -> Extent:
    """What a matrix does to a picture of width x height pixels, in an image of size x size.

    mirrored: it is meant to turn the picture over.
    """
    from fracgen.photo.warp_kernels import project

    back = inverse(matrix)
    if not np.isfinite(back).all():
        return Extent(covered=0.0, visible=0.0, folded=True, across=1.0, down=1.0)
    edges = np.array([[x, y, 1.0] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)]).T
    folded = bool(product(matrix, edges)[2].min() <= 0)
    corners = (np.arange(LATTICE + 1) * size / LATTICE) - 0.5
    sources = np.empty((2, LATTICE + 1, LATTICE + 1))
    project(back, corners, corners, sources)
    if mirrored:
        sources = sources[:, :, ::-1]
    return _judge(np.ascontiguousarray(sources), width, height, size, folded=folded)


def judge_map(sources: Floats) -> Extent:
    """What a map does: sources (2, 65, 65), where the lattice's corners come from, in the frame."""
    return _judge((sources + 1) * (LATTICE / 2) - 0.5, LATTICE, LATTICE, LATTICE, folded=False)


def _judge(sources: Floats, width: int, height: int, size: int, *, folded: bool) -> Extent:
    from fracgen.photo.warp_kernels import measure

    numbers = np.zeros(5)
    measure(sources, float(width), float(height), size / LATTICE, numbers)
    covered, visible, least, across, down = numbers.tolist()
    return Extent(covered=covered, visible=visible, folded=folded or least <= 0, across=across, down=down)
