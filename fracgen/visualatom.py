"""VisualAtom: orbits of gray lines around a centre, grown outward by waves and noise (Takashima et al., CVPR 2023).

A class is the numbers of an atom; an instance has its own centre, grays and noise. The distribution and the drawing are
the published code's; its random stream, which depends on the number of threads, is not.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.ifs import Floats
from fracgen.recipe import InstancesRecipe, Seed
from fracgen.rng import generator, stream_key
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import MAX_SIZE, Size

Gradients = Literal["signed", "library"]


@dataclass(frozen=True, kw_only=True)
class Atom:
    """What the images of a class share.

    vertices: V. orbits: L. noise: amplitude q. line_offset: w, in pixels. radius: of the start, in pixels.
    waves: (n1, n2), periods a turn. ellipse: (sx, sy), factors of the radius.
    cycle: (4, V) float64, rows cos(kA), sin(kA), 0.5 sin(kA n1), 0.5 sin(kA n2) with A = 2 pi / V.
    """

    vertices: int
    orbits: int
    noise: float
    line_offset: float
    radius: int
    waves: tuple[int, int]
    ellipse: tuple[float, float]
    cycle: Floats


@dataclass(frozen=True, kw_only=True)
class VisualAtom(InstancesRecipe):
    """The recipe of VisualAtom; nothing is left to resolve. Defaults are the published set.

    Image i is instance i % instances of class i // instances. The numbers of a class are uniform in ranges, whole
    numbers both ends included: vertices V and orbits L; noise amplitude q in [0, max_noise); line offset w in
    [0, max_line_offset); waves n1, n2 in 0..max_waves, different unless n1 = 0 (as published).
    gradients: "library" is how the published code's library, noise 1.2.2, computes the Perlin noise: every second
    gradient is -1 there. "signed" is how Perlin meant it, and what fracgen drew before 0.4: orbits are rougher (a
    standard deviation of 0.51 instead of 0.33).

    The cosines and sines are those of the platform's C library, as in the published code. Where two libraries differ in
    a last bit, so may, rarely, a pixel.
    """

    NAME: ClassVar[str] = "visualatom"
    PAPER: ClassVar[str] = citations.VISUAL_ATOMS
    NOTE: ClassVar[str] = (
        "It has the published distribution and drawing, not the published images, whose random numbers depend on the\n"
        "number of threads."
    )
    RANGES: ClassVar[tuple[str, ...]] = ("vertices", "orbits", "radius", "ellipse")
    HEADING: ClassVar[tuple[str, ...]] = ("classes", "instances", "gradients", "seed")

    seed: Seed = 0
    size: Size = 512
    min_vertices: Annotated[
        int, Setting("Least number of vertices of an orbit.", at_least=3, at_most=10000, panel="Class")
    ] = 200
    max_vertices: Annotated[
        int, Setting("Greatest number of vertices of an orbit.", at_least=3, at_most=10000, panel="Class")
    ] = 1000
    min_orbits: Annotated[int, Setting("Least number of orbits.", at_least=1, at_most=10000, panel="Class")] = 1
    max_orbits: Annotated[int, Setting("Greatest number of orbits.", at_least=1, at_most=10000, panel="Class")] = 200
    max_noise: Annotated[float, Setting("Greatest amplitude of the noise.", at_least=0, at_most=100, panel="Class")] = (
        4.0
    )
    max_line_offset: Annotated[
        float, Setting("Greatest offset of a line in pixels.", at_least=0, at_most=100, panel="Class")
    ] = 0.1
    min_radius: Annotated[
        int, Setting("Least radius of the first orbit in pixels.", at_least=0, at_most=MAX_SIZE, panel="Class")
    ] = 10
    max_radius: Annotated[
        int, Setting("Greatest radius of the first orbit in pixels.", at_least=0, at_most=MAX_SIZE, panel="Class")
    ] = 60
    max_waves: Annotated[int, Setting("Greatest number of waves a turn.", at_least=0, at_most=10000, panel="Class")] = (
        20
    )
    min_ellipse: Annotated[float, Setting("Least factor of an axis.", at_least=0, at_most=100, panel="Class")] = 1.0
    max_ellipse: Annotated[float, Setting("Greatest factor of an axis.", at_least=0, at_most=100, panel="Class")] = 2.0
    gradients: Annotated[
        Gradients,
        Setting("Gradients of the Perlin noise: as noise 1.2.2 computes them, or as they are meant.", panel="Formula"),
    ] = "library"

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()

    def atom(self, label: int) -> Atom:
        """The atom of class `label`: drawn from (seed, label), in the order of the fields of `Atom`."""
        return _atom(self, label)

    def centre(self, image_key: int) -> tuple[float, float]:
        """(x, y) of an image's centre in pixels: (size + a whole number in -size..size) / 2 each."""
        from fracgen import atom_kernels

        key, count = np.uint64(image_key), np.uint64(2 * self.size + 1)
        x, y = (int(atom_kernels.integer(key, np.uint64(number), count)) / 2 for number in range(2))
        return x, y

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them."""
        for index in map(self.check_index, indices):
            label = index // self.instances
            atom, image_key = self.atom(label), stream_key(self.seed, index, "image")
            centre = self.centre(image_key)
            metadata = {
                "formula": self.NAME,
                "vertices": atom.vertices,
                "orbits": atom.orbits,
                "noise": atom.noise,
                "line_offset": atom.line_offset,
                "radius": atom.radius,
                "waves": list(atom.waves),
                "ellipse": list(atom.ellipse),
                "centre": list(centre),
                "image_key": f"{image_key:016x}",
            }
            yield Sample(
                image=draw(atom, centre, image_key, self.size, self.gradients),
                index=index,
                label=label,
                metadata=metadata,
            )


def draw(atom: Atom, centre: tuple[float, float], image_key: int, size: int, gradients: Gradients = "library") -> Image:
    """One image of an atom: uint8 (size, size).

    centre: (x, y) in pixels. image_key: 64-bit key of its grays and its noise.
    """
    from fracgen import atom_kernels

    (cos, sin), (sx, sy), (x, y) = atom.cycle[:2], atom.ellipse, centre
    vertices = np.stack([cos * atom.radius * sx + x, sin * atom.radius * sy + y])
    image = np.zeros((size, size), np.uint8)
    pairs = atom_kernels.SIGNED_GRADIENTS if gradients == "signed" else atom_kernels.LIBRARY_GRADIENTS
    numbers, canvas = (atom.orbits, atom.noise, atom.line_offset), (size, atom_kernels.short_lines(size))
    atom_kernels.draw_atom(np.uint64(image_key), pairs, *numbers, atom.cycle, vertices, *canvas, image.reshape(-1))
    return image


@lru_cache(maxsize=1024)
def _atom(recipe: VisualAtom, label: int) -> Atom:
    random = generator(recipe.seed, label, "atom").random

    def whole(low: int, high: int) -> int:
        return low + int(random() * (high - low + 1))

    vertices = whole(recipe.min_vertices, recipe.max_vertices)
    orbits = whole(recipe.min_orbits, recipe.max_orbits)
    noise, line_offset = recipe.max_noise * random(), recipe.max_line_offset * random()
    radius = whole(recipe.min_radius, recipe.max_radius)
    first = whole(0, recipe.max_waves)
    if first == 0:  # the published code takes any second number then, 0 too
        second = whole(0, recipe.max_waves)
    else:
        second = whole(0, recipe.max_waves - 1)
        second += second >= first
    low, width = recipe.min_ellipse, recipe.max_ellipse - recipe.min_ellipse
    ellipse = low + width * random(), low + width * random()
    return Atom(
        vertices=vertices,
        orbits=orbits,
        noise=noise,
        line_offset=line_offset,
        radius=radius,
        waves=(first, second),
        ellipse=ellipse,
        cycle=_cycle(vertices, first, second),
    )


def _cycle(vertices: int, *waves: int) -> Floats:
    angle = 2 * math.pi / vertices
    turns = [angle * k for k in range(vertices)]  # with math's functions: numpy's depend on the processor
    rows = [[math.cos(turn) for turn in turns], [math.sin(turn) for turn in turns]]
    cycle = np.array(rows + [[0.5 * math.sin(turn * wave) for turn in turns] for wave in waves])
    cycle.flags.writeable = False
    return cycle
