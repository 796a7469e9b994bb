"""Scenes of coloured multi-fractals: what an image is drawn from, and the painter that draws it.

Anderson & Farrell, "Improving Fractal Pre-training" (WACV 2022).
"""

import math
from dataclasses import dataclass

import numpy as np

from fracgen.arithmetic import add
from fracgen.ifs import Floats
from fracgen.shards.sample import Image

LEVEL = 255
POINT_MASK, NUM_MASKS, NUM_FLIPS = 16, 511, 8
"""The mask of a pixel alone; how many have a pixel at all; flips are three bits."""


@dataclass(frozen=True, kw_only=True)
class Fractal:
    """One fractal of an image, as it was drawn at random.

    system: its number. maps: (N, 2, 3), changed where there is a jitter. limits: (N,), running sums of probabilities by
    which maps are chosen. key: of its orbit. mask, flips, colour: see
    `multifractal_kernels.count` and `paint`. place: of a single fractal, shift and extent of its region in x and y, in
    extents of its own; of one among several, left, top and side of its square in pixels.
    """

    system: int
    maps: Floats
    limits: Floats
    key: int
    mask: int
    flips: int
    colour: tuple[float, float, float]
    place: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The numbers of an image: fractals from below to above; of the background a key (0: black), decay and colours."""

    fractals: tuple[Fractal, ...]
    key: int
    decay: float
    colours: tuple[float, ...]
    blur_sigma: float


class Painter:
    """Draws scenes of one size, with memory of its own: not for two threads at once. points: of each orbit."""

    def __init__(self, size: int, points: int) -> None:
        from fracgen import multifractal_kernels, picture_kernels

        self._picture_kernels = picture_kernels
        self._kernels, self._size, self._points = multifractal_kernels, size, points
        self._choices, self._extents = np.empty((2, points), np.uint8), np.empty((2, 4))
        self._xs, self._ys = np.empty((2, points)), np.empty((2, points))
        self._numbers, self._places = np.empty(points + 1, np.uint32), np.empty(points, np.uint32)
        self._lines = np.empty((size, 3 * size), np.float32)
        side = 2 ** max(math.ceil(math.log2(size)), 1) + 1
        self._units, self._field = np.empty(side * side), np.empty((side, side))

    def paint(self, scene: Scene) -> Image | None:
        """The image of a scene, uint8 (size, size, 3); None where a fractal shows nothing or overflows."""
        kernels, image = self._kernels, np.zeros((self._size, self._size, 3), np.uint8)
        if scene.key:
            kernels.draw_units(np.uint64(scene.key), self._units)
            kernels.diamond_square(scene.decay, self._units, self._field)
            kernels.paint_background(self._field, np.array(scene.colours), image)
        for number, fractal in enumerate(scene.fractals):
            is_single, lane = len(fractal.place) == 4, number % 2
            if lane == 0 and not self._trace(scene.fractals[number : number + 2]):
                return None
            pixels = self._paint_fractal(fractal, lane, self._size if is_single else self._size // 2)
            if pixels is None:
                return None
            left, top = (0, 0) if is_single else (int(place) for place in fractal.place[:2])
            if not is_single:
                side = int(fractal.place[2])
                whole, pixels = pixels, np.empty((side, side, 3), np.uint8)
                self._picture_kernels.resize(whole, pixels)
            self._picture_kernels.paste(pixels, top, left, image)
        if scene.blur_sigma:
            self._picture_kernels.blur(blur_edge(scene.blur_sigma), self._lines, image)
        return image

    def _trace(self, fractals: tuple[Fractal, ...]) -> bool:
        """Trace the orbits of one fractal or two; returns whether all their points are finite."""
        for fractal, row in zip(fractals, self._choices, strict=False):
            self._kernels.choose_indexed(np.uint64(fractal.key), fractal.limits, self._numbers, row)
        maps = [fractal.maps.reshape(-1, 6) for fractal in fractals]
        choices, last = self._choices, len(fractals) - 1
        finite: bool = self._kernels.trace_pair(
            maps[0], maps[last], choices[0], choices[last], self._xs, self._ys, self._extents
        )
        return finite

    def _paint_fractal(self, fractal: Fractal, lane: int, size: int) -> Image | None:
        """A traced fractal in its colours on black, uint8 (size, size, 3); None where it shows nothing."""
        kernels, extent = self._kernels, self._extents[lane]
        region = region_of(extent, fractal.place) if len(fractal.place) == 4 else extent
        kernels.locate(self._xs[lane], self._ys[lane], region, size, self._places)
        points, counts = np.empty(size * size + 1, np.uint32), np.empty((size, size), np.uint32)
        if not (greatest := kernels.count(self._places, fractal.mask, points, counts)):
            return None
        pixels = np.empty((size, size, 3), np.uint8)
        kernels.paint(counts, greatest, np.array(fractal.colour), fractal.flips, pixels)
        return pixels


def region_of(extent: Floats, place: tuple[float, ...]) -> Floats:
    """Least and greatest x, y of a region, (4,). extent: those of the orbit. place: its shifts and extents in these."""
    region = np.empty(4)
    for axis in range(2):
        low, high = extent[2 * axis], extent[2 * axis + 1]
        centre, half = (low + high) / 2 + (high - low) * place[axis], (high - low) * place[2 + axis] / 2
        region[2 * axis : 2 * axis + 2] = centre - half, centre + half
    return region


def blur_edge(sigma: float) -> int:
    """Of 256, the weight of a neighbour in a 3-pixel Gaussian as OpenCV rounds it."""
    share = math.exp(-1 / (2 * sigma * sigma))
    return round(256 * share / (1 + 2 * share))


def running_sums(maps: Floats) -> Floats:
    """p_1 + ... + p_j of each map, (N,), p_j = |det A_j| / sum."""
    determinants = [abs(a * d - b * c) for (a, b, _), (c, d, _) in maps.tolist()]
    total = add(determinants)
    return np.cumsum([determinant / total for determinant in determinants])
