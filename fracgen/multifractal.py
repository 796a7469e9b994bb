"""Coloured multi-fractals: fractals in colours on random backgrounds, one or several in an image.

Anderson & Farrell, "Improving Fractal Pre-training" (WACV 2022). Where an image has several, its labels are several too
(multi-instance prediction), and a network learns which classes are in it. Published images come from a ring of 512
fractals and backgrounds, unseeded, in the order of their making; here each image is a function of seed and index.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.ifs import Floats
from fracgen.multifractal_systems import Unit, jitter_system, sample_system
from fracgen.recipe import MAX_CLASSES, InstancesRecipe, Seed, UnmakeableError
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import MAX_POINTS, Draw, Size

LEVEL = 255
HUE, SATURATION, VALUE = (0.0, 1.0), (0.3, 1.0), (0.5, 1.0)
"""Shares of LEVEL that a fractal's hue shift, saturation and value are drawn from."""
DECAY = 0.4, 0.8
"""Of a background's amplitude, level by level."""
BACKGROUND_COLOURS = (0.25, 1.0), (0.0, 1.0), (0.1, 0.3), (0.4, 0.6), (0.3, 0.6), (0.4, 0.6)
"""Shares of LEVEL that scale and shift of a background's hue, saturation and value are drawn from."""
POINT_MASK, NUM_MASKS, NUM_FLIPS = 16, 511, 8
"""The mask of a pixel alone; how many have a pixel at all; flips are three bits."""
MAX_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Fractal:
    """One fractal of an image, as it was drawn at random.

    system: its number. maps: (N, 2, 3), changed where there is a jitter. key: of its orbit. mask, flips, colour: see
    `multifractal_kernels.count` and `paint`. place: of a single fractal, shift and extent of its region in x and y, in
    extents of its own; of one among several, left, top and side of its square in pixels.
    """

    system: int
    maps: Floats
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


@dataclass(frozen=True, kw_only=True)
class MultiFractal(InstancesRecipe):
    """The recipe of coloured multi-fractals. Defaults are the published set in numbers; the random numbers are ours.

    composition: "multi" pastes 1 to 5 fractals in squares onto a background, each drawn at half the image's size: the
    uppermost is of the image's class, the others of any class, and all of them are its labels. "single" has one that
    fills the image more or less, and one label.
    systems_per_class: instance j of a class c has the system c n + j n // instances.
    jitter: "published" changes the systems of single images by "basic", and no others.

    All labels count, whether their fractals are seen or hidden, as published. Three things are ours: an image has
    fractals and a background of its own, which the published ring uses some six times and twice; a patch mask has at
    least one pixel, where one in 512 published ones has none, and shows nothing; and the label of an image is in it.
    """

    NAME: ClassVar[str] = "multifractal"
    PAPER: ClassVar[str] = citations.MULTIFRACTAL
    RANGES: ClassVar[tuple[str, ...]] = ("maps", "fractals", "side", "extent", "blur_sigma")
    HEADING: ClassVar[tuple[str, ...]] = ("composition", "classes", "instances", "seed")

    composition: Annotated[
        Literal["multi", "single"],
        Setting("Several fractals and labels in an image, or one of each.", panel="Formula"),
    ] = "multi"
    systems_per_class: Annotated[
        int, Setting("Systems of each class, shared out among its images.", at_least=1, at_most=10_000, panel="Formula")
    ] = 1
    min_maps: Annotated[int, Setting("Least number of maps of a system.", at_least=2, at_most=8, panel="Formula")] = 2
    max_maps: Annotated[
        int, Setting("Greatest number of maps of a system.", at_least=2, at_most=8, panel="Formula")
    ] = 4
    jitter: Annotated[
        Literal[
            "published", "none", "basic", "fractaldb-1", "fractaldb-2", "fractaldb-3", "fractaldb-4", "svd", "sval"
        ],
        Setting("How the system of a fractal is changed; published: basic for single images.", panel="Formula"),
    ] = "published"
    seed: Seed = 0
    size: Size = 224
    points: Annotated[int, Setting("Points of a fractal's orbit.", at_least=1, at_most=MAX_POINTS, panel="Image")] = (
        100_000
    )
    draw: Draw = "patch"
    background: Annotated[
        Literal["random", "black"], Setting("A random field in colours behind the fractals, or none.", panel="Image")
    ] = "random"
    min_fractals: Annotated[
        int, Setting("Least number of fractals in a multi image.", at_least=1, at_most=100, panel="Image")
    ] = 1
    max_fractals: Annotated[
        int, Setting("Greatest number of fractals in a multi image.", at_least=1, at_most=100, panel="Image")
    ] = 5
    min_side: Annotated[
        float, Setting("Least side of a fractal in a multi image, in image sizes.", above=0, at_most=2, panel="Image")
    ] = 0.15
    max_side: Annotated[
        float,
        Setting("Greatest side of a fractal in a multi image, in image sizes.", above=0, at_most=2, panel="Image"),
    ] = 0.6
    max_shift: Annotated[
        float, Setting("Greatest shift of a single fractal, in its extents.", at_least=0, at_most=10, panel="Image")
    ] = 0.2
    min_extent: Annotated[
        float, Setting("Least extent of a single image, in its fractal's extents.", above=0, at_most=10, panel="Image")
    ] = 0.5
    max_extent: Annotated[
        float, Setting("Greatest extent of a single image, in its fractal's.", above=0, at_most=10, panel="Image")
    ] = 2.0
    blur: Annotated[
        float, Setting("Share of images that are blurred a little.", at_least=0, at_most=1, panel="Image")
    ] = 0.5
    min_blur_sigma: Annotated[
        float, Setting("Least sigma of the blur in pixels.", above=0, at_most=10, panel="Image")
    ] = 0.5
    max_blur_sigma: Annotated[
        float, Setting("Greatest sigma of the blur in pixels.", above=0, at_most=10, panel="Image")
    ] = 1.0

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        if self.classes * self.systems_per_class > MAX_CLASSES:
            raise UsageError(
                f"systems_per_class {self.systems_per_class}: with {self.classes} classes at most "
                f"{MAX_CLASSES // self.classes}"
            )

    @property
    def title(self) -> str:
        """Name, composition, classes and images a class."""
        return f"{self.NAME}-{self.composition}-{self.classes}x{self.instances}"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(size, size, 3)."""
        return (self.size, self.size, 3)

    @property
    def multi_label(self) -> bool:
        """Whether an image has the labels of all its fractals."""
        return self.composition == "multi"

    @property
    def num_systems(self) -> int:
        """How many there are, of all classes."""
        return self.classes * self.systems_per_class

    def system(self, number: int) -> Floats:
        """System `number`, (N, 2, 3) float64."""
        return _system(self.seed, number, self.min_maps, self.max_maps)

    def scene(self, index: int, attempt: int = 0) -> Scene:
        """The numbers of an image. attempt: above 0 where a fractal of all those before shows nothing."""
        random = generator(self.seed, index, "scene", attempt)
        unit = random.random
        label, instance = divmod(index, self.instances)
        own = label * self.systems_per_class + instance * self.systems_per_class // self.instances
        others = 0
        if self.multi_label:
            others = self.min_fractals + int(unit() * (self.max_fractals - self.min_fractals + 1)) - 1
        systems = [*(int(unit() * self.num_systems) for _ in range(others)), own]
        fractals = tuple(self._draw_fractal(system, random) for system in systems)
        key = int(random.bit_generator.random_raw()) | 1
        decay, colours = _uniform(unit, *DECAY), tuple(LEVEL * _uniform(unit, *share) for share in BACKGROUND_COLOURS)
        if self.background == "black":
            key, decay, colours = 0, 0.0, (0.0,) * len(colours)
        is_blurred, sigma = unit() < self.blur, _uniform(unit, self.min_blur_sigma, self.max_blur_sigma)
        return Scene(fractals=fractals, key=key, decay=decay, colours=colours, blur_sigma=sigma if is_blurred else 0.0)

    def _draw_fractal(self, system: int, random: np.random.Generator) -> Fractal:
        unit, maps = random.random, self.system(system)
        jitter = self.jitter
        if jitter == "published":
            jitter = "none" if self.multi_label else "basic"
        if jitter != "none":
            maps = jitter_system(maps, jitter, unit)
        mask, flips = 1 + int(unit() * NUM_MASKS), int(unit() * NUM_FLIPS)
        hue, saturation, value = (LEVEL * _uniform(unit, *share) for share in (HUE, SATURATION, VALUE))
        return Fractal(
            system=system,
            maps=maps,
            key=int(random.bit_generator.random_raw()),
            mask=mask if self.draw == "patch" else POINT_MASK,
            flips=flips,
            colour=(hue, float(int(saturation)), float(int(value))),
            place=self._draw_square(unit) if self.multi_label else self._draw_region(unit),
        )

    def _draw_square(self, unit: Unit) -> tuple[float, ...]:
        side = max(int(self.size * _uniform(unit, self.min_side, self.max_side)), 1)
        left, top = (int(unit() * self.size) - side // 2 for _ in range(2))
        return (left, top, side)

    def _draw_region(self, unit: Unit) -> tuple[float, ...]:
        shifts = [_uniform(unit, -self.max_shift, self.max_shift) for _ in range(2)]
        extents = [_uniform(unit, self.min_extent, self.max_extent) for _ in range(2)]
        return (*shifts, *extents)

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        An image with a fractal of which nothing is seen before it is pasted is drawn again, and counted.
        Raises UnmakeableError where none of 100 tries shows all of them.
        """
        painter = Painter(self.size, self.points)
        for index in map(self.check_index, indices):
            rejected = Counter[str]()
            for attempt in range(MAX_TRIES):
                scene = self.scene(index, attempt)
                if (image := painter.paint(scene)) is not None:
                    break
                rejected["empty"] += 1
            else:
                raise UnmakeableError(
                    f"image {index}: shows nothing in {MAX_TRIES} tries; give more points or a wider extent"
                )
            labels = {fractal.system // self.systems_per_class for fractal in scene.fractals}
            yield Sample(
                image=image,
                index=index,
                label=index // self.instances,
                labels=tuple(sorted(labels)) if self.multi_label else (),
                metadata={"formula": self.NAME, **self._describe(scene)},
                rejected=dict(rejected),
            )

    def _describe(self, scene: Scene) -> dict[str, Any]:
        """What an image can be drawn from again, whatever the recipe."""
        fractals = scene.fractals
        return {
            "systems": [fractal.system for fractal in fractals],
            "maps": [fractal.maps.ravel().tolist() for fractal in fractals],
            "orbit_keys": [f"{fractal.key:016x}" for fractal in fractals],
            "masks": [fractal.mask for fractal in fractals],
            "flips": [fractal.flips for fractal in fractals],
            "colours": [list(fractal.colour) for fractal in fractals],
            "squares" if self.multi_label else "regions": [list(fractal.place) for fractal in fractals],
            "background_key": f"{scene.key:016x}",
            "background_decay": scene.decay,
            "background_colours": list(scene.colours),
            "blur_sigma": scene.blur_sigma,
        }


class Painter:
    """Draws scenes of one size, with memory of its own: not for two threads at once. points: of each orbit."""

    def __init__(self, size: int, points: int) -> None:
        from fracgen import multifractal_kernels

        self._kernels, self._size, self._points = multifractal_kernels, size, points
        self._choices, self._extent = np.empty(points, np.uint8), np.empty(4)
        self._xs, self._ys = np.empty(points), np.empty(points)
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
        for fractal in scene.fractals:
            is_single = len(fractal.place) == 4
            pixels = self._paint_fractal(fractal, self._size if is_single else self._size // 2)
            if pixels is None:
                return None
            left, top = (0, 0) if is_single else (int(place) for place in fractal.place[:2])
            if not is_single:
                side = int(fractal.place[2])
                whole, pixels = pixels, np.empty((side, side, 3), np.uint8)
                kernels.resize(whole, pixels)
            kernels.paste(pixels, top, left, image)
        if scene.blur_sigma:
            kernels.blur(blur_edge(scene.blur_sigma), self._lines, image)
        return image

    def _paint_fractal(self, fractal: Fractal, size: int) -> Image | None:
        """A fractal in its colours on black, uint8 (size, size, 3); None where it shows nothing or overflows."""
        kernels = self._kernels
        kernels.choose_indexed(np.uint64(fractal.key), running_sums(fractal.maps), self._numbers, self._choices)
        if not kernels.trace(fractal.maps, self._choices, self._xs, self._ys, self._extent):
            return None
        region = region_of(self._extent, fractal.place) if len(fractal.place) == 4 else self._extent
        kernels.locate(self._xs, self._ys, region, size, self._places)
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
    total = sum(determinants)
    return np.cumsum([determinant / total for determinant in determinants])


@lru_cache(maxsize=4096)
def _system(seed: int, number: int, min_maps: int, max_maps: int) -> Floats:
    unit = generator(seed, number, "system").random
    maps = sample_system(min_maps + int(unit() * (max_maps - min_maps + 1)), unit)
    maps.flags.writeable = False
    return maps


def _uniform(unit: Unit, low: float, high: float) -> float:
    return low + (high - low) * unit()
