"""Candidates of the category searches, some at a time: drawn from the stream, and judged by one thread."""

import numpy as np
import numpy.typing as npt

from fracgen import search_kernels as kernels
from fracgen import spatial_kernels
from fracgen.ifs import IFS, maps_from_rows
from fracgen.mersenne_kernels import Words
from fracgen.search_settings import Search
from fracgen.spatial import SpatialIFS


class PlaneBatch:
    """One thread's buffers of FractalDB's search: four candidates from the stream, and how many pixels each lights.

    rows: (4, 7, 6) a, b, c, d, e, f of the maps. p: (4, 7), 0 where there is no map. lit: (4,), see `count_lit`.
    """

    def __init__(self, least: int) -> None:
        """least: number of pixels that a category lights."""
        self._least = least
        lanes, block = kernels.LANES, kernels.BLOCK
        self.rows, self.p = np.zeros((lanes, kernels.MAX_MAPS, 6)), np.zeros((lanes, kernels.MAX_MAPS))
        self.lit = np.empty(lanes, np.int64)
        self._choices = np.empty((lanes, kernels.POINTS), np.uint8)
        self._coefficients = np.zeros((lanes, (kernels.MAX_MAPS + 1) * kernels.ROW))
        self._points = np.empty((2, lanes, block))
        self._signed, self._unsigned = self._points.view(np.int64), self._points.view(np.uint64)

    def read(self, words: Words, position: int) -> int:
        """Take the next four candidates from the stream; returns its position after them."""
        for lane in range(kernels.LANES):
            buffers = self.rows[lane], self.p[lane], self._choices[lane], self._coefficients[lane]
            position = kernels.draw_candidate(words, position, *buffers)
        return position

    def judge(self) -> None:
        """Fill in how many pixels each lights, or why it is none."""
        orbits = self._coefficients, self._choices[:, :-1]
        position, greatest = np.zeros((kernels.LANES, 2)), np.zeros((kernels.LANES, 2, 2), np.int64)
        kernels.find_extents(*orbits, position, *self._points, self._signed, self._unsigned, greatest)
        highest, lowest = np.moveaxis(greatest.view(np.float64), -1, 0)
        extents = np.stack([np.minimum(lowest, 0), highest], axis=-1).reshape(kernels.LANES, 4)
        with np.errstate(invalid="ignore"):
            widths = extents[:, 1::2] - extents[:, ::2]
        self.lit[:] = 1
        self.lit[~((widths > 0) & (widths < np.inf)).all(axis=1)] = kernels.FLAT
        self.lit[np.isnan(position).any(axis=1)] = kernels.OVERFLOW
        canvases = np.zeros((kernels.LANES, kernels.SIZE**2 // 64), np.uint64)
        for lane in np.flatnonzero(self.lit > 0).tolist():
            kernels.plot_block(np.zeros(1), np.zeros(1), extents[lane], np.empty(1, np.uint32), canvases[lane])
        kernels.count_lit(*orbits, np.zeros_like(position), *self._points, extents, self._least, canvases, self.lit)

    @property
    def outcomes(self) -> npt.NDArray[np.uint8]:
        """Numbers of `Search.OUTCOMES`, (4,) uint8."""
        codes = np.where(self.lit >= self._least, Search.OUTCOMES.index("found"), Search.OUTCOMES.index("fill"))
        codes[self.lit == kernels.OVERFLOW] = Search.OUTCOMES.index("overflow")
        codes[self.lit == kernels.FLAT] = Search.OUTCOMES.index("flat")
        return codes.astype(np.uint8)

    def system(self, lane: int) -> IFS:
        """A candidate's system."""
        num_maps = np.count_nonzero(self.p[lane])
        return IFS(maps_from_rows(self.rows[lane, :num_maps]), self.p[lane, :num_maps])


class SpatialBatch:
    """One thread's buffers of ExFractalDB's search: four candidates, one after the other.

    rows: (4, 7, 12), a..l of the maps. p: (4, 7). num_maps: of each. outcomes: numbers of `SpatialSearch.OUTCOMES`.
    """

    def __init__(self, threshold: float) -> None:
        """threshold: of the variance of a category."""
        lanes, points = kernels.LANES, spatial_kernels.POINTS
        self._threshold = threshold
        self.rows, self.p = np.zeros((lanes, kernels.MAX_MAPS, 12)), np.zeros((lanes, kernels.MAX_MAPS))
        self.num_maps, self.outcomes = [0] * lanes, np.zeros(lanes, np.uint8)
        self._uniforms, self._cloud = np.empty((lanes, points)), np.empty((points - 1, 3))

    def read(self, words: Words, position: int) -> int:
        """Take the next four candidates from the stream; returns its position after them."""
        for lane in range(kernels.LANES):
            buffers = self.rows[lane], self.p[lane], self._uniforms[lane]
            self.num_maps[lane], position = spatial_kernels.draw_candidate(words, position, *buffers)
        return position

    def judge(self) -> None:
        """Fill in the outcomes."""
        for lane, num_maps in enumerate(self.num_maps):
            maps = self.rows[lane, :num_maps], self.p[lane, :num_maps]
            spatial_kernels.trace_cloud(*maps, self._uniforms[lane], self._cloud)
            if not spatial_kernels.normalise_cloud(self._cloud):
                self.outcomes[lane] = spatial_kernels.OVERFLOW
            else:
                self.outcomes[lane] = spatial_kernels.judge_cloud(self._cloud, self._threshold)

    def system(self, lane: int) -> SpatialIFS:
        """A candidate's system."""
        num_maps = self.num_maps[lane]
        return SpatialIFS(self.rows[lane, :num_maps], self.p[lane, :num_maps])
