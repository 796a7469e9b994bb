"""The warps: numbers in, pictures through them. Kernels and matrices stand in files of their own.

Frame: a picture of `size` x `size` pixels is the square [-1, 1] x [-1, 1], x to the right and y down, so that a length
of 1 is half of its width; the centre of pixel i lies at (2 i + 1) / size - 1. A matrix leads from the picture to the
image; a map (`warp_kernels`) from the image back to the picture, as OpenCV's remap takes it, since a polynomial has no
inverse to write down.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np

from fracgen.ifs import Floats
from fracgen.photo.extent import LATTICE, Extent, judge_map, judge_matrix
from fracgen.photo.matrices import affine_matrix, inverse, perspective_matrix
from fracgen.photo.resample import pixel_places, warp_map, warp_matrix
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting

FOLD_LATTICE = 256
"""Cells along an axis in which a map is searched for folds."""
TERMS = 6
"""Of a quadratic polynomial: 1, x, y, x x, x y, y y."""

WarpName = Literal["affine", "perspective", "polynomial", "elastic", "crops"]
Strength = Annotated[
    float,
    Setting(
        "Width of the warps' numbers; 1 is half of the picture, for elastic a cell.",
        at_least=0,
        at_most=1e6,
        panel="Formula",
    ),
]
Cells = Annotated[int, Setting("Cells of an elastic warp along a side.", at_least=1, at_most=16, panel="Formula")]
MinFill = Annotated[
    float,
    Setting(
        "Share of the image that a warp must cover, and of the photograph that it must show.",
        at_least=0,
        at_most=1,
        panel="Rejection",
    ),
]


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
        """Number of numbers; cells: along an axis, of an elastic one."""

    @abstractmethod
    def apply(self, picture: Image) -> Image:
        """Warp a picture; black where the image shows what lies outside of it."""

    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """The numbers that reproduce the warp."""

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
        """The lesser of the shares covered and visible; see `Extent.fill`."""
        return self.extent.fill


class _MatrixWarp(Warp):
    matrix: Floats

    def apply(self, picture: Image) -> Image:
        """Warp a picture; black where the image shows what lies outside of it."""
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
        """Warp a picture; black where the image shows what lies outside of it."""
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


WARPS: Mapping[str, type[Warp]] = {
    "affine": Affine,
    "perspective": Perspective,
    "polynomial": Polynomial,
    "elastic": Elastic,
}
"""By the name in a recipe. Their numbers are uniform in [-strength/2, strength/2], in the frame, where 1 is half the
width. affine: the six coefficients about the identity. perspective: x and y of the four corners. polynomial: the twelve
coefficients of a quadratic about the identity. elastic: x and y of the control points of cells x cells cells, where 1
is the width of a cell."""
