"""RCDB's published random stream: which numbers each class and each image had, whatever else is rendered.

The published program draws all classes of a process, image by image, from Python's `random`, seeded with the number of
the process from 1. So what a class looks like depends on every image before it: the generator's state at the start of
each class is found once, by passing over 28,000 words an image, and kept.
"""

import hashlib
import math
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from fracgen.assets import Stored
from fracgen.ifs import Floats
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import num_cores
from fracgen.shards.sample import Image

MAX_VERTEX_TRIES = 10_000
MAX_STATES = 100_000
"""Classes of the published stream at most: 250 MB of states, which every process that renders holds."""
_WORDS_AT_A_TIME = 1_000_000_000
"""Passed over, about, before an interrupt is heard: half a second's."""
_STATE_WORDS = 624
_VERSION = 3
"""Of the state that Python's `random` gives out."""


@dataclass(frozen=True, kw_only=True)
class ContourRanges:
    """The ranges of a class's and an image's numbers; whole numbers have both ends included.

    vertices: V, drawn as a whole number of an exponential distribution of mean `mean_vertices`, again while it is out
    of range. lines: L. noise, line_offset: greatest q and w. oval: factors of the axes. shift: the centre is
    (size + a whole number in -shift..shift) / 2.
    """

    size: int
    mean_vertices: float
    vertices: tuple[int, int]
    lines: tuple[int, int]
    noise: float
    line_offset: float
    radius: tuple[int, int]
    oval: tuple[float, float]
    shift: int

    @property
    def bounds(self) -> Floats:
        """(5,) float64, as the kernels take them."""
        return np.array([*self.oval, *self.radius, self.shift], np.float64)


@dataclass(frozen=True, kw_only=True)
class Contour:
    """What the images of a class share: V, L, q, and w in pixels."""

    vertices: int
    lines: int
    noise: float
    line_offset: float

    @cached_property
    def cycle(self) -> Floats:
        """(2, V) float64: cos(kA) and sin(kA), A = 2 pi / V, by math's functions: numpy's depend on the processor."""
        angle = 2 * math.pi / self.vertices
        return np.array([[turn(angle * k) for k in range(self.vertices)] for turn in (math.cos, math.sin)])


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an image has of its own: radius, factors (x, y) of it, centre (x, y), in pixels.

    key: of the stream of its grays and noise, where that is the image's own.
    """

    radius: float
    oval: tuple[float, float]
    centre: tuple[float, float]
    key: int | None = None

    def vertices(self, cycle: Floats) -> Floats:
        """(2, V) float64: the first contour, around (0, 0)."""
        return np.stack([cycle[axis] * self.radius * self.oval[axis] for axis in range(2)])


class RandomStates(Stored):
    """The published generator's state at the start of each class: (classes, 625) uint32, the last one its position."""

    FILE: ClassVar[str] = "random-states.bin"
    CONTENT: ClassVar[str] = "the state of the published program's random generator at the start of each class"
    OPTION: ClassVar[str] = "--stream published"

    def __init__(self, states: npt.NDArray[np.uint32]) -> None:
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RandomStates) and np.array_equal(self.states, other.states)

    def __hash__(self) -> int:
        return hash(self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Little-endian words, class by class."""
        return self.states.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises UsageError where it is something else."""
        row = 4 * (_STATE_WORDS + 1)
        if not data or len(data) % row:
            raise UsageError(f"{cls.FILE}: damaged: {len(data)} bytes are no states of {row} bytes each")
        states = np.frombuffer(data, "<u4").reshape(-1, _STATE_WORDS + 1).astype(np.uint32)
        if (states[:, -1] > _STATE_WORDS).any():
            raise UsageError(f"{cls.FILE}: damaged: a position is beyond the state")
        return cls(states)


class ClassStream:
    """The published stream of one class, from its first image on; images may be taken in any order.

    contour: of the class. In order, an image costs its own words; to go back is to begin anew.
    """

    def __init__(self, state: npt.NDArray[np.uint32], ranges: ContourRanges) -> None:
        """state: (625,) uint32, of `RandomStates`."""
        from fracgen import mersenne_kernels as kernels

        self._state, self._ranges = state, ranges
        generator = random.Random()
        generator.setstate((_VERSION, tuple(state.tolist()), None))
        self.contour, placement = draw_class(generator, ranges)
        self._start = np.array(generator.getstate()[1], np.uint32)
        self._first = placement
        self._words = np.empty(_STATE_WORDS + kernels.CHUNK_WORDS, np.uint32)
        self._rewind()

    def _rewind(self) -> None:
        from fracgen import mersenne_kernels as kernels

        self._words[:_STATE_WORDS] = self._start[:-1]
        kernels.twist(self._words)
        self._position, self._image, self._placement = int(self._start[-1]), 0, self._first.copy()

    def seek(self, image: int) -> Placement:
        """Go to an image of the class; returns its placement."""
        from fracgen import contour_kernels as kernels

        if image < self._image:
            self._rewind()
        contour, ranges = self.contour, self._ranges
        self._position = kernels.skip_images(
            self._words,
            self._position,
            image - self._image,
            contour.vertices,
            contour.lines,
            ranges.bounds,
            ranges.size,
            self._placement,
        )
        self._image = image
        oval_x, oval_y, radius, y, x = self._placement.tolist()
        return Placement(radius=int(radius), oval=(oval_x, oval_y), centre=(x, y))

    def draw(self, placement: Placement, image: Image) -> None:
        """Draw the image that `seek` went to on white pixels (size, size), and go on to the next."""
        from fracgen import contour_kernels as kernels
        from fracgen.atom_kernels import short_lines

        contour, ranges = self.contour, self._ranges
        numbers = contour.lines, contour.noise, contour.line_offset, contour.cycle, placement.vertices(contour.cycle)
        canvas = ranges.size, short_lines(ranges.size), image.reshape(-1)
        self._position = kernels.draw_published(self._words, self._position, *numbers, placement.centre, *canvas)
        self._position = kernels.read_placement(
            self._words, self._position, ranges.bounds, ranges.size, self._placement
        )
        self._image += 1

    def state_after(self, images: int) -> npt.NDArray[np.uint32]:
        """The state (625,) after so many images: at the start of the next class."""
        self.seek(images)
        start = max(self._position - _STATE_WORDS, 0)
        state = self._words[start : start + _STATE_WORDS]
        return np.append(state, np.uint32(self._position - start)).astype(np.uint32)


def draw_class(generator: random.Random, ranges: ContourRanges) -> tuple[Contour, Floats]:
    """The numbers of a class and the placement (5,) of its first image, in the published order of draws.

    Raises DataError where no number of vertices is in range.
    """
    for _ in range(MAX_VERTEX_TRIES):
        vertices = int(-math.log(1.0 - generator.random()) / (1 / ranges.mean_vertices))
        if ranges.vertices[0] <= vertices <= ranges.vertices[1]:
            break
    else:
        low, high = ranges.vertices
        raise DataError(f"no number of vertices of {MAX_VERTEX_TRIES} was in {low} to {high}; widen the range")
    contour = Contour(
        vertices=vertices,
        lines=_whole(generator, *ranges.lines),
        noise=ranges.noise * generator.random(),
        line_offset=ranges.line_offset * generator.random(),
    )
    radius = _whole(generator, *ranges.radius)
    low_oval, high_oval = ranges.oval
    ovals = [low_oval + (high_oval - low_oval) * generator.random() for _ in range(2)]
    y, x = ((ranges.size + _whole(generator, -ranges.shift, ranges.shift)) / 2 for _ in range(2))
    return contour, np.array([*ovals, radius, y, x])


def _whole(generator: random.Random, low: int, high: int) -> int:
    count = high - low + 1
    bits, number = count.bit_length(), count
    while number >= count:
        number = generator.getrandbits(bits)
    return low + number


def find_states(
    ranges: ContourRanges, *, processes: int, classes: int, images: int, on_try: Callable[[int], None] | None = None
) -> RandomStates:
    """The states at the start of `classes` classes of `images` images each, made by so many processes, 1 and on.

    Process p makes classes p c to p c + c - 1, where c = classes / processes, which must be whole. on_try: called with
    a class again and again; what it raises ends the search, as an interrupt does.
    """
    count = classes // processes
    states = np.empty((classes, _STATE_WORDS + 1), np.uint32)
    is_over = threading.Event()

    def walk(process: int) -> None:
        state = np.array(random.Random(process + 1).getstate()[1], np.uint32)
        for label in range(process * count, (process + 1) * count):
            states[label] = state
            stream = ClassStream(state, ranges)
            words = 4 * stream.contour.lines * stream.contour.vertices
            for image in range(0, images, max(_WORDS_AT_A_TIME // words, 1)):
                if is_over.is_set():
                    return
                if on_try:
                    on_try(label)
                stream.seek(image)
            state = stream.state_after(images)

    def walk_until_over(process: int) -> None:
        try:
            walk(process)
        except BaseException:
            is_over.set()
            raise

    with ThreadPoolExecutor(num_cores()) as pool:
        try:
            for _ in pool.map(walk_until_over, range(processes)):
                pass
        finally:
            is_over.set()
    return RandomStates(states)
