"""RCDB: radial contours, grown outward by noise line after line (Kataoka et al., CVPR 2022).

A class is the numbers of a contour; an image has its own radius, axes, centre, grays and noise. Published images are
RGB with equal channels, gray on white; here they are gray.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.rcdb_stream import (
    MAX_STATES,
    ClassStream,
    Contour,
    ContourRanges,
    Placement,
    RandomStates,
    find_states,
)
from fracgen.recipe import InstancesRecipe, OnTry, Seed
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import MAX_SIZE, Size, check_range

WHITE = 255


@dataclass(frozen=True, kw_only=True)
class RCDB(InstancesRecipe):
    """The recipe of RCDB. Defaults are the published set in numbers; `stream` says whose random numbers.

    Whole numbers have both ends of their ranges included;
    grays are uniform in 0..size/2, with 256 and more as 255, as published: they follow the size.
    stream: "indexed" draws every image from (seed, index). "published" has the published set's own images, in which
    each depends on all before it in its process: `resolve` finds where each class begins, and the seed has no say.
    processes: of the published program, of which process p makes the classes p c to p c + c - 1; it shipped with 10 for
    1,000 classes, and 40 for 21,000.
    """

    NAME: ClassVar[str] = "rcdb"
    PAPER: ClassVar[str] = citations.RCDB
    RANGES: ClassVar[tuple[str, ...]] = ("vertices", "lines", "radius", "oval")
    HEADING: ClassVar[tuple[str, ...]] = ("classes", "instances", "stream", "seed")

    stream: Annotated[
        Literal["indexed", "published"],
        Setting("Random numbers from seed and index, or the published set's own.", panel="Formula"),
    ] = "indexed"
    seed: Seed = 0
    processes: Annotated[
        int, Setting("Processes of the published program, for its stream.", at_least=1, panel="Formula")
    ] = 10
    size: Size = 512
    mean_vertices: Annotated[
        float, Setting("Mean of the exponential that vertices are drawn from.", above=0, at_most=10000, panel="Class")
    ] = 100.0
    min_vertices: Annotated[
        int, Setting("Least number of vertices of a contour.", at_least=1, at_most=10000, panel="Class")
    ] = 3
    max_vertices: Annotated[
        int, Setting("Greatest number of vertices of a contour.", at_least=1, at_most=10000, panel="Class")
    ] = 200
    min_lines: Annotated[int, Setting("Least number of lines.", at_least=1, at_most=10000, panel="Class")] = 1
    max_lines: Annotated[int, Setting("Greatest number of lines.", at_least=1, at_most=10000, panel="Class")] = 200
    max_noise: Annotated[float, Setting("Greatest amplitude of the noise.", at_least=0, at_most=100, panel="Class")] = (
        4.0
    )
    max_line_offset: Annotated[
        float, Setting("Greatest offset of a line in pixels.", at_least=0, at_most=100, panel="Class")
    ] = 0.1
    min_radius: Annotated[
        int, Setting("Least radius of the first contour in pixels.", at_least=0, at_most=MAX_SIZE, panel="Image")
    ] = 0
    max_radius: Annotated[
        int, Setting("Greatest radius of the first contour in pixels.", at_least=0, at_most=MAX_SIZE, panel="Image")
    ] = 100
    min_oval: Annotated[float, Setting("Least factor of an axis.", at_least=0, at_most=100, panel="Image")] = 1.0
    max_oval: Annotated[float, Setting("Greatest factor of an axis.", at_least=0, at_most=100, panel="Image")] = 2.0
    max_shift: Annotated[
        int,
        Setting("Twice how far a centre lies off the image's, at most, in pixels.", at_least=0, panel="Image"),
    ] = 400
    states: Annotated[RandomStates | None, Setting("Where each class begins in the published stream.", option="")] = (
        None
    )

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_range("max_shift", self.max_shift, 0, 2 * MAX_SIZE, "pixels")
        if self.stream == "published":
            self._check_published()
        elif self.states is not None:
            raise UsageError("states: only the published stream has them; leave them out")

    def _check_published(self) -> None:
        if self.size % 2:
            raise UsageError(f"size {self.size}: the published program fails with an odd one; use an even one")
        if self.classes % self.processes:
            whole = self.classes // self.processes * self.processes
            mend = f"{whole} classes" if whole else f"at most {self.classes} processes"
            raise UsageError(
                f"classes {self.classes}: must be a multiple of processes, {self.processes}: the published program "
                f"never makes the rest; use {mend}"
            )
        check_range("classes", self.classes, 1, MAX_STATES, "in the published stream")
        if self.states is not None and len(self.states) != self.classes:
            raise UsageError(f"states: of {len(self.states)} classes, not of {self.classes}")

    @property
    def note(self) -> str:
        """Whose random numbers the set has."""
        if self.stream == "published":
            return (
                "Its random numbers are those of the published program: with its settings, of 1,000 classes by 10\n"
                "processes or 21,000 by 40, the images are the published ones, pixel for pixel (there RGB, of equal\n"
                "channels)."
            )
        return (
            "It has the published distribution and drawing, not the published images: its random numbers are\n"
            "fracgen's own, by seed and index. `--stream published` has the published ones."
        )

    @property
    def group(self) -> int:
        """Images of a class share its stream, if it is the published one."""
        return self.instances if self.stream == "published" else 1

    @property
    def ranges(self) -> ContourRanges:
        """What its numbers are drawn from."""
        return ContourRanges(
            size=self.size,
            mean_vertices=self.mean_vertices,
            vertices=(self.min_vertices, self.max_vertices),
            lines=(self.min_lines, self.max_lines),
            noise=self.max_noise,
            line_offset=self.max_line_offset,
            radius=(self.min_radius, self.max_radius),
            oval=(self.min_oval, self.max_oval),
            shift=self.max_shift,
        )

    def resolve(self, on_try: OnTry | None = None) -> tuple["RCDB", dict[str, Any]]:
        """The recipe; with the published stream, with the state at the start of each class.

        Raises DataError where a class has no number of vertices in range.
        """
        if self.stream == "indexed" or self.states is not None:
            return self, {}
        states = find_states(
            self.ranges, processes=self.processes, classes=self.classes, images=self.instances, on_try=on_try
        )
        return replace(self, states=states), {}

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of values that change nothing."""
        unused = {"published": "seed", "indexed": "processes"}[self.stream]
        value = getattr(self, unused)
        if value == getattr(type(self), unused):
            return []
        return [f"{unused} {value}: changes nothing in the {self.stream} stream"]

    def class_stream(self, label: int) -> "ClassStream | IndexedStream":
        """Where the numbers of a class come from. Raises UsageError where the recipe is not resolved."""
        if self.stream == "indexed":
            return IndexedStream(self, label)
        if self.states is None:
            raise UsageError("the recipe has no states of the published stream yet: call resolve() first")
        return ClassStream(self.states.states[label], self.ranges)

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        In the published stream, those of a class between two images are passed over, 15 microseconds each.
        """
        for label, members in groupby(map(self.check_index, indices), lambda index: index // self.instances):
            stream = self.class_stream(label)
            for index in members:
                placement = stream.seek(index % self.instances)
                image = np.full((self.size, self.size), WHITE, np.uint8)
                stream.draw(placement, image)
                yield Sample(
                    image=image,
                    index=index,
                    label=label,
                    metadata={
                        "formula": self.NAME,
                        "vertices": stream.contour.vertices,
                        "lines": stream.contour.lines,
                        "noise": stream.contour.noise,
                        "line_offset": stream.contour.line_offset,
                        "radius": placement.radius,
                        "oval": list(placement.oval),
                        "centre": list(placement.centre),
                        **({} if placement.key is None else {"image_key": f"{placement.key:016x}"}),
                    },
                )


class IndexedStream:
    """Random numbers of a class from (seed, label), and of each image from (seed, index)."""

    def __init__(self, recipe: RCDB, label: int) -> None:
        self._recipe, self._first = recipe, label * recipe.instances
        self.contour = _contour(recipe, label)

    def seek(self, image: int) -> Placement:
        """The placement of an image of the class, and the key of its grays and noise."""
        ranges, random = self._recipe.ranges, generator(self._recipe.seed, self._first + image, "image")
        key, unit = int(random.bit_generator.random_raw()), random.random
        low, high = ranges.oval
        oval = low + (high - low) * unit(), low + (high - low) * unit()
        y, x = ((ranges.size + _whole(unit(), -ranges.shift, ranges.shift)) / 2 for _ in range(2))
        return Placement(radius=_whole(unit(), *ranges.radius), oval=oval, centre=(x, y), key=key)

    def draw(self, placement: Placement, image: Image) -> None:
        """Draw an image on white pixels (size, size)."""
        draw_contours(self.contour, placement, image)


def draw_contours(contour: Contour, placement: Placement, image: Image) -> None:
    """Draw one image of a contour on white pixels (size, size), with grays and noise from the key of its placement."""
    from fracgen import contour_kernels as kernels
    from fracgen.atom_kernels import short_lines

    assert placement.key is not None, "that of an indexed stream"
    numbers = contour.lines, contour.noise, contour.line_offset, contour.cycle, placement.vertices(contour.cycle)
    canvas = len(image), short_lines(len(image)), image.reshape(-1)
    kernels.draw_indexed(np.uint64(placement.key), *numbers, placement.centre, *canvas)


@lru_cache(maxsize=1024)
def _contour(recipe: RCDB, label: int) -> Contour:
    ranges, unit = recipe.ranges, generator(recipe.seed, label, "contour").random
    mean, least, end = ranges.mean_vertices, ranges.vertices[0], ranges.vertices[1] + 1
    low, high = (-math.expm1(-bound / mean) for bound in (least, end))
    share = low + (high - low) * (number := unit())  # of the distribution, the part that is in range
    if share < 1:
        vertices = int(-mean * math.log1p(-share))
    else:  # too far out for a share: from `least` on, the exponential is as from 0 on
        vertices = int(least - mean * math.log1p(number * math.expm1((least - end) / mean)))
    return Contour(
        vertices=min(max(vertices, least), end - 1),
        lines=_whole(unit(), *ranges.lines),
        noise=ranges.noise * unit(),
        line_offset=ranges.line_offset * unit(),
    )


def _whole(unit: float, low: int, high: int) -> int:
    return low + int(unit * (high - low + 1))
