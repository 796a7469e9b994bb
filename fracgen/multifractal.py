"""Coloured multi-fractals: fractals in colours on random backgrounds, one or several in an image.

Anderson & Farrell, "Improving Fractal Pre-training" (WACV 2022). Where an image has several, its labels are several too
(multi-instance prediction), and a network learns which classes are in it. Published images come from a ring of 512
fractals and backgrounds, unseeded, in the order of their making; here each image is a function of seed and index.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.ifs import Floats
from fracgen.multifractal_scenes import LEVEL, NUM_FLIPS, NUM_MASKS, POINT_MASK, Fractal, Painter, Scene, running_sums
from fracgen.multifractal_systems import Unit, jitter_system, sample_system
from fracgen.recipe import MAX_CLASSES, InstancesRecipe, Seed, UnmakeableError
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Sample
from fracgen.shards.settings import Setting
from fracgen.style import MAX_POINTS, Draw, Size

HUE, SATURATION, VALUE = (0.0, 1.0), (0.3, 1.0), (0.5, 1.0)
"""Shares of LEVEL that a fractal's hue shift, saturation and value are drawn from."""
DECAY = 0.4, 0.8
"""Of a background's amplitude, level by level."""
BACKGROUND_COLOURS = (0.25, 1.0), (0.0, 1.0), (0.1, 0.3), (0.4, 0.6), (0.3, 0.6), (0.4, 0.6)
"""Shares of LEVEL that scale and shift of a background's hue, saturation and value are drawn from."""
MAX_TRIES = 100


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
    NOTE: ClassVar[str] = (
        "It has the published distribution, not the published images: the original has no seed, and takes fractals\n"
        "and backgrounds from a ring in the order of their making. Here each image has its own, by seed and index."
    )
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
            limits=running_sums(maps),
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


@lru_cache(maxsize=4096)
def _system(seed: int, number: int, min_maps: int, max_maps: int) -> Floats:
    unit = generator(seed, number, "system").random
    maps = sample_system(min_maps + int(unit() * (max_maps - min_maps + 1)), unit)
    maps.flags.writeable = False
    return maps


def _uniform(unit: Unit, low: float, high: float) -> float:
    return low + (high - low) * unit()
