"""Warps of the plane: numbers in, a matrix or a map out, and pictures through them. Pure functions.

Frame: a picture of `size` x `size` pixels is the square [-1, 1] x [-1, 1], x to the right and y down, so that a length
of 1 is half of its width; the centre of pixel i lies at (2 i + 1) / size - 1. Matrices are given in pixels, (3, 3)
float64, and lead from the picture to the image ("forward"), as OpenCV's warpPerspective takes them; maps lead from the
image back to the picture, as its remap does, since a polynomial has no inverse to write down.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fracgen.ifs import Floats
from fracgen.photo.opencv import opencv
from fracgen.shards.sample import Image

LATTICE = 64
"""Cells along an axis in which a warp is judged."""
FOLD_LATTICE = 256
"""Cells along an axis in which a map is searched for folds."""
MAX_FINENESS = 4
"""Samples of a pixel along an axis, at most."""
SPACING = 1.25
"""How many of a picture's pixels two samples may be apart."""
TERMS = 6
"""Of a quadratic polynomial: 1, x, y, x x, x y, y y."""


def affine_matrix(eps: Floats, size: int) -> Floats:
    """The identity moved by eps (6,), its coefficients a, b, e, c, d, f in the frame.

    x' = (1 + a) x + b y + e, y' = c x + (1 + d) y + f; so e and f are in halves of the width.
    """
    (a, b, e), (c, d, f) = eps.reshape(2, 3).tolist()
    centre, half = (size - 1) / 2, size / 2
    rows = [[1 + a, b, half * e - centre * (a + b)], [c, 1 + d, half * f - centre * (c + d)], [0.0, 0.0, 1.0]]
    return np.array(rows)


def perspective_matrix(eps: Floats, size: int) -> Floats:
    """The homography that moves the frame's corners by eps (8,).

    x and y of top left, top right, bottom right, bottom left. Heckbert's closed form for the unit square (1989), in
    pixels. Corners that lie in a line have none: all zeros then.
    """
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) + eps.reshape(4, 2)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((corners + 1) / 2).tolist()
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    if det == 0:
        return np.zeros((3, 3))
    g, h = (sx * dy2 - sy * dx2) / det, (dx1 * sy - dy1 * sx) / det
    a, b, d, e = x1 - x0 + g * x1, x3 - x0 + h * x3, y1 - y0 + g * y1, y3 - y0 + h * y3
    tilt = (g + h) / 2
    last = [g / size, h / size, 1 + tilt / size]
    # from the unit square to pixels, u = (x + 1/2) / size: written out, so that the identity is exact
    first = [a - last[0] / 2, b - last[1] / 2, size * x0 + (a + b - 1 - tilt / size) / 2]
    second = [d - last[0] / 2, e - last[1] / 2, size * y0 + (d + e - 1 - tilt / size) / 2]
    return np.array([first, second, last])


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


def product(*matrices: Floats) -> Floats:
    """Of small matrices, in plain arithmetic: libraries of linear algebra differ in the last bit."""
    result, *others = (matrix.tolist() for matrix in matrices)
    for other in others:
        columns = list(zip(*other, strict=True))
        result = [[sum(map(operator.mul, row, column)) for column in columns] for row in result]
    return np.array(result)


def inverse(matrix: Floats) -> Floats:
    """Of a (3, 3) matrix, by its adjugate: the identity's is exact. Where there is none, it is not finite."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    adjugate = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]
    det = a * adjugate[0][0] + b * adjugate[1][0] + c * adjugate[2][0]
    return np.array(adjugate) / det if det else np.full((3, 3), np.nan)


class Warp(ABC):
    """A warp of pictures of size x size pixels, by the numbers `eps`: what is drawn, in the frame.

    extent: what it does to them.
    """

    extent: Extent

    def __init__(self, *, eps: Floats, size: int) -> None:
        self.eps, self.size = eps, size

    @staticmethod
    @abstractmethod
    def count(cells: int) -> int:
        """How many numbers there are; cells: along an axis, of an elastic one."""

    @abstractmethod
    def apply(self, picture: Image) -> Image:
        """A picture through it, black where it comes from outside."""

    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """What reproduces it."""

    @abstractmethod
    def sources(self, xs: Floats, ys: Floats) -> Floats:
        """Where samples come from, (2, m, n), in the picture's pixels; xs, ys: of `pixel_places`."""

    def meets(self, edges: Image) -> bool:
        """Whether something of a picture of 0 and 255 is certainly in the image: one of up to 64 x 64 of its samples
        lies in a pixel that is 255, of which it has a fifth at least."""
        xs, ys = (places[:, :: -(-places.shape[1] // LATTICE)] for places in self._places())
        x, y = np.rint(self.sources(np.ascontiguousarray(xs), np.ascontiguousarray(ys)))
        inside = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        return bool(edges[y[inside].astype(int), x[inside].astype(int)].any())

    def _places(self) -> tuple[Floats, Floats]:
        across, down = self.extent.fineness
        return pixel_places(self.size, across), pixel_places(self.size, down)

    @property
    def fill(self) -> float:
        """See `Extent`."""
        return self.extent.fill


class _MatrixWarp(Warp):
    matrix: Floats

    def apply(self, picture: Image) -> Image:
        """A picture through it, black where it comes from outside."""
        return warp_matrix(picture, self.matrix, self.size, self.extent.fineness)

    def sources(self, xs: Floats, ys: Floats) -> Floats:
        """Where samples come from, (2, m, n), in the picture's pixels; infinity behind the horizon."""
        from fracgen.photo.warp_kernels import project

        sources = np.empty((2, ys.shape[1], xs.shape[1]))
        project(inverse(self.matrix), xs[1], ys[1], sources)
        return sources

    def metadata(self) -> Mapping[str, Any]:
        """eps, and the matrix from the picture's pixels to the image's."""
        return {"eps": self.eps.tolist(), "matrix": self.matrix.tolist(), "fineness": list(self.extent.fineness)}


class Affine(_MatrixWarp):
    """See `affine_matrix`."""

    def __init__(self, *, eps: Floats, size: int) -> None:
        super().__init__(eps=eps, size=size)
        self.matrix = affine_matrix(eps, size)
        self.extent = judge_matrix(self.matrix, size, size, size)

    @staticmethod
    def count(cells: int) -> int:
        """Six coefficients."""
        return 6


class Perspective(_MatrixWarp):
    """See `perspective_matrix`."""

    def __init__(self, *, eps: Floats, size: int) -> None:
        super().__init__(eps=eps, size=size)
        self.matrix = perspective_matrix(eps, size)
        self.extent = judge_matrix(self.matrix, size, size, size)

    @staticmethod
    def count(cells: int) -> int:
        """x and y of four corners."""
        return 8


class _MapWarp(Warp):
    """numbers: what its kernel takes, in the frame."""

    numbers: Floats

    @abstractmethod
    def _map(self, xs: Floats, ys: Floats, unit: float, out: Any) -> None:
        """Fill out (2, m, n) as `warp_kernels.bend` does."""

    def _judge(self) -> Extent:
        corners = np.tile(np.linspace(-1.0, 1.0, LATTICE + 1), (2, 1))
        sources = np.empty((2, LATTICE + 1, LATTICE + 1))
        self._map(corners, corners, 1.0, sources)
        extent = judge_map(sources)
        return extent if extent.folded else replace(extent, folded=self._folds())

    @abstractmethod
    def _folds(self) -> bool:
        """Whether it turns over somewhere, on the finer lattice."""

    def apply(self, picture: Image) -> Image:
        """A picture through it, black where it comes from outside."""
        xs, ys = self._places()
        sources = np.empty((2, ys.shape[1], xs.shape[1]), np.float32)
        self._map(xs, ys, self.size / 2, sources)
        return warp_map(picture, sources, self.size)

    def sources(self, xs: Floats, ys: Floats) -> Floats:
        """Where samples come from, (2, m, n), in the picture's pixels."""
        sources = np.empty((2, ys.shape[1], xs.shape[1]))
        self._map(xs, ys, self.size / 2, sources)
        return sources


class Polynomial(_MapWarp):
    """See `warp_kernels.bend`. eps: the twelve coefficients about the identity, (12,), those of x first."""

    def __init__(self, *, eps: Floats, size: int) -> None:
        super().__init__(eps=eps, size=size)
        self.numbers = eps.reshape(2, TERMS)
        self.extent = self._judge()

    @staticmethod
    def count(cells: int) -> int:
        """Two quadratics."""
        return 2 * TERMS

    def _map(self, xs: Floats, ys: Floats, unit: float, out: Any) -> None:
        from fracgen.photo.warp_kernels import bend

        bend(self.numbers, xs, ys, unit, out)

    def _folds(self) -> bool:
        from fracgen.photo.warp_kernels import bends_over

        return bool(bends_over(self.numbers, np.linspace(-1.0, 1.0, FOLD_LATTICE + 1)))

    def metadata(self) -> Mapping[str, Any]:
        """coefficients: of 1, x, y, x x, x y, y y, in the frame, for x and for y; added to the identity."""
        return {"coefficients": self.numbers.tolist(), "fineness": list(self.extent.fineness)}


class Elastic(_MapWarp):
    """See `warp_kernels.stretch`. eps: the moves of the control points, in widths of a cell, (2 (m + 3)^2,)."""

    def __init__(self, *, eps: Floats, size: int) -> None:
        super().__init__(eps=eps, size=size)
        width = math.isqrt(len(eps) // 2)
        self.numbers = eps.reshape(width, width, 2) * (2 / (width - 3))
        self.extent = self._judge()

    @staticmethod
    def count(cells: int) -> int:
        """x and y of the control points."""
        return 2 * (cells + 3) ** 2

    def _map(self, xs: Floats, ys: Floats, unit: float, out: Any) -> None:
        from fracgen.photo.warp_kernels import stretch

        stretch(self.numbers, xs, ys, unit, out)

    def _folds(self) -> bool:
        from fracgen.photo.warp_kernels import overturned

        slopes = [np.abs(np.diff(self.numbers, axis=axis)).max(axis=(0, 1)) for axis in range(2)]
        if sum(slopes).max() < 2 / (len(self.numbers) - 3):  # a spline is no steeper than its control points
            return False
        corners = np.tile(np.linspace(-1.0, 1.0, FOLD_LATTICE + 1), (2, 1))
        sources = np.empty((2, FOLD_LATTICE + 1, FOLD_LATTICE + 1))
        self._map(corners, corners, 1.0, sources)
        return bool(overturned(sources))

    def metadata(self) -> Mapping[str, Any]:
        """nodes: how far the control points are moved, row by row, x and y, in the frame."""
        return {"nodes": self.numbers.tolist(), "fineness": list(self.extent.fineness)}


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
    wanted = (size * x, size * y)
    warped = cv2.warpPerspective(picture, fine, wanted, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=0)
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
