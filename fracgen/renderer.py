"""From an IFS to an image: the published renderer (Kataoka et al., ACCV 2020) over the kernels of `chaos`."""

import contextlib
from collections.abc import Iterator
from colorsys import hsv_to_rgb
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from fracgen import canvas_kernels, chaos
from fracgen.ifs import IFS, Floats, maps_from_rows
from fracgen.rng import published_uniforms
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Image
from fracgen.style import Style, check_range

LANES = 2
"""Systems traced at a time: an orbit waits for its own arithmetic, so that two take as long as one."""
TRIM = 100
"""A diverging orbit loses this many points before its first NaN, as in the published code."""
MAX_KEPT_POINTS = 1_000_000
NUM_HUES = 128
"""Of points by their number."""
_NO_HUES = np.empty(0, np.uint8), np.empty((0, 3), np.uint8)


class Canvas:
    """One thread's buffers for drawing points that have their places already, in one style.

    Memory: 4 bytes a point, and two canvases.
    """

    def __init__(self, style: Style) -> None:
        self.style = style
        rows = style.size + canvas_kernels.MARGIN
        self.stride = -(-rows // 64) * 64 if style.color == "gray" else rows
        self._visible = np.empty(style.points, np.uint32)
        self._first_visible = 0
        self._free = np.empty(rows * self.stride, np.uint8)
        self._bits = np.empty(rows * self.stride // 64 if style.color == "gray" else 0, np.uint64)
        self._pixels = np.empty((0 if style.color == "gray" else rows * self.stride, 3), np.uint8)
        self._row = np.empty(-(-self.stride // 8), np.uint64)
        self._offsets = np.empty(0, np.uint32)
        self._hues, self._palette = (_point_hues(style.points), _hues()) if style.color == "color" else _NO_HUES

    def place(
        self, offsets: npt.NDArray[np.uint32], maps: npt.NDArray[np.uint8] | None = None, num_maps: int = 1
    ) -> None:
        """Take points to draw, by their places v * stride + u (row v from the bottom, column u): (n,) uint32.

        maps: (n,), the number of the map that made each, 0 to num_maps - 1, where these give its colour.
        """
        self._offsets = offsets
        if maps is not None:
            self._hues, self._palette = maps, _map_hues(num_maps)
        if self.style.draw == "patch":
            self._free.fill(1)
            self._first_visible = int(canvas_kernels.find_visible(offsets, self._free, self._visible[: len(offsets)]))

    def stamp(self, mask_key: int = 0) -> None:
        """Draw the points; mask_key: 64-bit key of the random masks, where the style has them."""
        style, offsets = self.style, self._offsets
        visible, key = self._visible[self._first_visible : len(offsets)], np.uint64(mask_key)
        if style.color == "gray":
            self._bits.fill(0)
            if style.draw == "point":
                canvas_kernels.plot_gray(offsets, self._bits)
            else:
                canvas_kernels.stamp_gray(offsets, visible, key, style.random_masks, self.stride, self._bits)
            return
        self._pixels.fill(0)
        if style.draw == "point":
            canvas_kernels.plot_color(offsets, self._hues, self._palette, self._pixels)
        else:
            colors = self._hues, self._palette
            canvas_kernels.stamp_color(offsets, visible, key, style.random_masks, *colors, self.stride, self._pixels)

    def fill_rate(self) -> float:
        """Share of the image's pixels that are not black, without making it."""
        size = self.style.size
        if self.style.color == "gray":
            return int(canvas_kernels.count_gray(self._bits, self.stride, size)) / size**2
        return int(canvas_kernels.count_color(self._pixels, self.stride, size)) / size**2

    def image(self, *, top_bottom: bool = False, left_right: bool = False) -> Image:
        """What is drawn, mirrored or not: uint8 (size, size), or (size, size, 3) in colour; rows from the top."""
        size, stride = self.style.size, self.stride
        if self.style.color == "gray":
            image = np.empty((size, size), np.uint8)
            row = self._row, self._row.view(np.uint8)
            canvas_kernels.unpack_gray(self._bits, stride, top_bottom, left_right, *row, image)
            return image
        image = np.empty((size, size, 3), np.uint8)
        canvas_kernels.copy_color(self._pixels, stride, top_bottom, left_right, image)
        return image


class Renderer:
    """One thread's buffers for tracing and drawing systems in one style.

    `trace` two systems, then `draw` each of them, as often as wanted (with other masks, or mirrored). Memory: 42 bytes
    a point and the canvas.
    """

    def __init__(self, style: Style) -> None:
        self.style, self._canvas = style, Canvas(style)
        self._p = [b""] * LANES
        self._choices = np.empty((LANES, style.points - 1), np.uint8)
        self._xs, self._ys = np.empty((LANES, style.points)), np.empty((LANES, style.points))
        self._extents = np.empty((LANES, 4))
        self._lengths = [0] * LANES
        self._offsets = np.empty(style.points, np.uint32)
        self._traced: tuple[tuple[npt.NDArray[np.uint8], int], ...] = ()
        self._placed: int | None = None

    def trace(self, p: Floats, *maps: Floats, second_p: Floats | None = None) -> None:
        """Trace one system or two, (N, 2, 3) each, chosen with p (N,). A diverging orbit is trimmed as published.

        second_p: of the second system, where it does not have the probabilities of the first.
        """
        # copies, as a kernel is compiled for each mix of layouts and of arrays that cannot be written to
        first, second = (np.array(each.reshape(-1, 6), order="C") for each in (maps[0], maps[-1]))
        choices = self._choose(0, p)
        other_p = second_p if second_p is not None and second_p.tobytes() != p.tobytes() else None
        second_choices = choices if other_p is None else self._choose(1, other_p)
        self._traced = (choices, len(first)), (second_choices, len(second))
        chaos.trace_pair(first, second, choices, second_choices, self._xs, self._ys, self._extents)
        self._placed = None
        for lane in range(LANES):
            self._lengths[lane] = self.style.points
            if np.isnan(self._xs[lane, -1]) or np.isnan(self._ys[lane, -1]):
                self._trim(lane)

    def _choose(self, lane: int, p: Floats) -> npt.NDArray[np.uint8]:
        """The maps that are chosen with p (N,), (T - 1,): those of the last time where p is the same."""
        choices: npt.NDArray[np.uint8] = self._choices[lane]
        if p.tobytes() != self._p[lane]:
            limits, table = np.empty(len(p)), np.empty(chaos.NUM_BUCKETS, np.uint8)
            self._p[lane] = b""  # an interrupt may come when the choices are other ones already
            chaos.choose_maps(p, *_stream(self.style.points), limits, table, choices)
            self._p[lane] = p.tobytes()
        return choices

    def _trim(self, lane: int) -> None:
        """With the first NaN at point n, only [0, n - 100) are kept: of x, then of y in what is left."""
        length = self.style.points
        for axis in (self._xs[lane], self._ys[lane]):
            nans = np.isnan(axis[:length])
            if nans.any():
                length = max(int(nans.argmax()) - TRIM, 0)
        self._lengths[lane] = length
        if length:
            x, y = self._xs[lane, :length], self._ys[lane, :length]
            self._extents[lane] = x.min(), x.max(), y.min(), y.max()

    def diverged(self, lane: int = 0) -> bool:
        """Whether the traced orbit ran into NaN."""
        return self._lengths[lane] < self.style.points

    def length(self, lane: int = 0) -> int:
        """How many points of the traced orbit are drawn: all, or those before it diverged."""
        return self._lengths[lane]

    def extent(self, lane: int = 0) -> tuple[float, float, float, float]:
        """(min x, max x, min y, max y) of what is drawn of the traced orbit: the image's border but for the pad."""
        x_min, x_max, y_min, y_max = self._extents[lane].tolist()
        return x_min, x_max, y_min, y_max

    def stamp(self, lane: int = 0, mask_key: int = 0) -> None:
        """Draw a traced orbit; `image` gives what is drawn.

        mask_key: 64-bit key of the random masks, where the style has them.
        Raises DataError where nothing is left of the orbit.
        """
        self._place(lane)
        self._canvas.stamp(mask_key)

    def fill_rate(self) -> float:
        """Share of pixels that are not black, of what was stamped last."""
        return self._canvas.fill_rate()

    def image(self, *, top_bottom: bool = False, left_right: bool = False) -> Image:
        """What was stamped last, mirrored or not: see `Canvas.image`."""
        return self._canvas.image(top_bottom=top_bottom, left_right=left_right)

    def draw(self, lane: int = 0, mask_key: int = 0) -> Image:
        """The image of a traced orbit: `stamp` and `image` in one."""
        self.stamp(lane, mask_key)
        return self.image()

    def _place(self, lane: int) -> None:
        if lane == self._placed:
            return
        style, length, stride = self.style, self._lengths[lane], self._canvas.stride
        if not length:
            raise DataError(f"overflow: the orbit runs into NaN within its first {TRIM} points; nothing is left")
        offsets, extent = self._offsets[:length], self._extents[lane]
        chaos.locate(self._xs[lane, :length], self._ys[lane, :length], extent, style.size, style.pad, stride, offsets)
        if style.color == "map":
            choices, num_maps = self._traced[lane]
            maps = np.zeros(length, np.uint8)  # the first point, which no map made, is of the first
            np.minimum(choices[: length - 1], num_maps - 1, out=maps[1:])  # a step that takes no map stays
            self._canvas.place(offsets, maps, num_maps)
        else:
            self._canvas.place(offsets)
        self._placed = lane


_idle: list[Renderer] = []


@contextlib.contextmanager
def borrow_renderer(style: Style) -> Iterator[Renderer]:
    """Lend a renderer to one user, and keep it for the next one of the same style, in whichever thread.

    The first touch of a new one's memory takes as long as three images, and a shard may have 16. Those of more than
    a million points are not kept.
    """
    try:
        renderer = _idle.pop()
    except IndexError:
        renderer = Renderer(style)
    if renderer.style != style:
        renderer = Renderer(style)
    try:
        yield renderer
    finally:
        if style.points <= MAX_KEPT_POINTS:
            _idle.append(renderer)


def draw_ifs(ifs: IFS, style: Style, *, weights: npt.ArrayLike | None = None, mask_key: int = 0) -> Image:
    """Draw one system as the published renderer does.

    weights: (6,) or (N, 6), multiply the coefficients a, b, c, d, e, f; p stays that of `ifs`. mask_key: 64-bit key of
    the random masks, where the style has them.
    Raises DataError where the orbit overflows at once, UsageError where the weights do not fit or the key has no 64
    bits.
    """
    check_range("mask_key", mask_key, 0, 2**64 - 1)
    maps = ifs.maps
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if weights.shape not in ((6,), (1, 6), (len(ifs), 6)):
            raise UsageError(f"weights: give one vector of 6, or {len(ifs)} (one per map), not {weights.shape}")
        with np.errstate(over="ignore"):  # a coefficient of infinity is drawn like any other
            maps = maps * maps_from_rows(np.broadcast_to(weights, (len(ifs), 6)))
    renderer = Renderer(style)
    renderer.trace(ifs.p, maps)
    return renderer.draw(mask_key=mask_key)


def parse_weights(text: str) -> Floats:
    """Weights as written on a command line: (1, 6) from "w,w,w,w,w,w", or (N, 6) from one such vector per map, "..;..".

    Raises UsageError where it is not that.
    """
    try:
        rows = [[float(number) for number in vector.split(",")] for vector in text.strip().strip(";").split(";")]
    except ValueError as error:
        raise UsageError(f"weights {text!r}: {error}; give numbers, as in 1,1,1,1,1,1") from None
    if any(len(row) != 6 for row in rows) or not np.isfinite(rows).all():
        raise UsageError(f"weights {text!r}: give 6 finite numbers, or 6 for each map with ; between")
    return np.array(rows)


@lru_cache(maxsize=2)
def _stream(points: int) -> tuple[Floats, npt.NDArray[np.uint16]]:
    """The published uniform numbers, and the bucket of `chaos.choose_maps` in which each lies."""
    uniforms = published_uniforms(points)[: points - 1]
    return uniforms, (uniforms * chaos.NUM_BUCKETS).astype(np.uint16)


@lru_cache(maxsize=2)
def _point_hues(points: int) -> npt.NDArray[np.uint8]:
    """The hue of each point by its number, (points,)."""
    return (np.arange(points) % NUM_HUES).astype(np.uint8)


@lru_cache(maxsize=256)
def _map_hues(num_maps: int) -> npt.NDArray[np.uint8]:
    """A colour for each map, (num_maps, 3) RGB: hue j / N, saturation and value 1, as FractalDB's GPU port colours."""
    return np.array([[int(255 * level) for level in hsv_to_rgb(j / num_maps, 1, 1)] for j in range(num_maps)], np.uint8)


@cache
def _hues() -> npt.NDArray[np.uint8]:
    """The 128 hues of colour drawing, (128, 3) RGB: S = I = 0.75, hue 2 pi i / 128, in six sectors."""
    hues = np.empty((NUM_HUES, 3))
    saturation = intensity = 0.75
    for i in range(NUM_HUES):
        turn = 3 * (2 * np.pi * i / NUM_HUES) / np.pi
        sector = int(np.floor(turn))
        low = intensity * (1 - saturation)
        down = intensity * (1 - saturation * (turn - sector))
        up = intensity * (1 - saturation * (1 - (turn - sector)))
        hues[i] = [
            (low, up, intensity),
            (low, intensity, down),
            (up, intensity, low),
            (intensity, down, low),
            (intensity, low, up),
            (down, low, intensity),
        ][sector]
    return (hues * 255).astype(np.uint8)
