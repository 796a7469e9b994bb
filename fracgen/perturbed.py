"""One contour, atom, fractal of space or of colours, perturbed into L classes: 1p-frac's question to other formulas.

"Scaling Backwards" (Nakamura et al., ECCV 2024) perturbs one fractal and pre-trains as well as with a thousand. Whether
that is the fractal or the perturbation is asked by perturbing something else as little. This is our own design.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.exfractaldb import ExFractalDB, trace_cloud
from fracgen.ifs import Floats
from fracgen.multifractal import HUE, SATURATION, VALUE, MultiFractal
from fracgen.multifractal_scenes import LEVEL, Painter
from fracgen.rcdb import RCDB, WHITE, IndexedStream, draw_contours
from fracgen.recipe import Classes, Column, Difference, OnTry, Recipe, Seed, UnmakeableError, spread
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.spatial import SpatialCategories
from fracgen.style import Size
from fracgen.visualatom import VisualAtom, draw

PREVIEW_CLASSES = 5


class Original(ABC):
    """What is perturbed: one image of a formula, as a function of its real numbers.

    names: of the numbers. numbers: (n,) float64. widths: (n,), of their published ranges: an additive Delta is a share
    of them.
    """

    names: tuple[str, ...]
    numbers: Floats
    widths: Floats

    @abstractmethod
    def draw(self, numbers: Floats, size: int) -> Image | None:
        """The image with other numbers; None where there is none."""


class ContourOriginal(Original):
    """An image of RCDB, in the centre: noise, line offset, radius and factors of both axes; the rest is kept."""

    def __init__(self, seed: int, base: int, size: int) -> None:
        recipe = RCDB(classes=base + 1, instances=1, seed=seed, size=size)
        stream = IndexedStream(recipe, base)
        self._contour, self._placement = stream.contour, replace(stream.seek(0), centre=(size / 2, size / 2))
        self.names = ("noise", "line_offset", "radius", "oval_x", "oval_y")
        contour, placement = self._contour, self._placement
        self.numbers = np.array([contour.noise, contour.line_offset, placement.radius, *placement.oval])
        self.widths = np.array([4.0, 0.1, 100.0, 1.0, 1.0])

    def draw(self, numbers: Floats, size: int) -> Image | None:
        """Never None."""
        noise, line_offset, radius, oval_x, oval_y = np.maximum(numbers, 0).tolist()
        image = np.full((size, size), WHITE, np.uint8)
        contour = replace(self._contour, noise=noise, line_offset=line_offset)
        draw_contours(contour, replace(self._placement, radius=radius, oval=(oval_x, oval_y)), image)
        return image


class AtomOriginal(Original):
    """An image of VisualAtom, in the centre: noise, line offset, radius and factors of both axes; the rest is kept."""

    def __init__(self, seed: int, base: int, size: int) -> None:
        recipe = VisualAtom(classes=base + 1, instances=1, seed=seed, size=size)
        self._atom, self._key = recipe.atom(base), stream_key(seed, base, "image")
        self._centre = size / 2, size / 2
        self.names = ("noise", "line_offset", "radius", "ellipse_x", "ellipse_y")
        self.numbers = np.array([self._atom.noise, self._atom.line_offset, self._atom.radius, *self._atom.ellipse])
        self.widths = np.array([4.0, 0.1, 50.0, 1.0, 1.0])

    def draw(self, numbers: Floats, size: int) -> Image | None:
        """Never None."""
        noise, line_offset, radius, *ellipse = np.maximum(numbers, 0).tolist()
        atom = replace(self._atom, noise=noise, line_offset=line_offset, radius=radius, ellipse=tuple(ellipse))
        return draw(atom, self._centre, self._key, size)


class SpaceOriginal(Original):
    """A view of a category of ExFractalDB: all coefficients of its maps; choices of maps and the view stay the same."""

    def __init__(self, seed: int, base: int, systems: SpatialCategories) -> None:
        recipe = ExFractalDB(categories=base + 1, seed=seed, weights="identity", num_views=1, systems=systems)
        self._system, self._camera = systems[base], recipe.camera(base)[0]
        self._uniforms = generator(seed, base, "cloud").random(recipe.points)
        self.names = tuple(f"{letter}{number}" for number in range(len(self._system)) for letter in "abcdefghijkl")
        self.numbers, self.widths = self._system.maps.ravel(), np.ones(self._system.maps.size)

    def draw(self, numbers: Floats, size: int) -> Image | None:
        """None where the orbit overflows or is one point."""
        from fracgen import spatial_kernels

        with np.errstate(over="ignore"):
            points = trace_cloud(numbers.reshape(-1, 12), self._system.p, self._uniforms)
        if points is None:
            return None
        image = np.zeros((size, size), np.uint8)
        spatial_kernels.project(points, self._camera, size, image)
        return image


class ColourOriginal(Original):
    """A single fractal of MultiFractal on black, in its own box: all coefficients of its maps, and its three colours.

    Choices of maps, the patch mask and flips stay the same. Saturation and value end at 0 and 255; the hue goes round.
    """

    def __init__(self, seed: int, base: int, size: int) -> None:
        self._recipe = MultiFractal(
            classes=base + 1, instances=1, seed=seed, size=size, composition="single", jitter="none",
            background="black", blur=0.0,
        )  # fmt: skip
        self._scene = self._recipe.scene(base)
        (fractal,) = self._scene.fractals
        self._fractal = replace(fractal, place=(0.0, 0.0, 1.0, 1.0))
        coefficients = [f"{letter}{number}" for number in range(len(fractal.maps)) for letter in "abecdf"]
        self.names = (*coefficients, "hue", "saturation", "value")
        self.numbers = np.concatenate([fractal.maps.ravel(), fractal.colour])
        colours = [LEVEL * (high - low) for low, high in (HUE, SATURATION, VALUE)]
        self.widths = np.concatenate([np.ones(len(coefficients)), colours])

    def draw(self, numbers: Floats, size: int) -> Image | None:
        """None where the orbit overflows or nothing is seen."""
        maps, (hue, saturation, value) = numbers[:-3].reshape(-1, 2, 3), numbers[-3:].tolist()
        colour = hue % (LEVEL + 1), *(float(int(min(max(level, 0), LEVEL))) for level in (saturation, value))
        fractal = replace(self._fractal, maps=maps, colour=colour)
        return Painter(size, self._recipe.points).paint(replace(self._scene, fractals=(fractal,)))


@dataclass(frozen=True, kw_only=True)
class Perturbed(Recipe):
    """The recipe of one image of a formula, perturbed into classes of one image each.

    Class l has the original's numbers moved by eps_l, as those of 1p-frac are: multiplied by U(1 - Delta, 1 + Delta),
    or with U(-Delta/2, Delta/2) added, as a share of the range that the published set draws a number from (of
    ExFractalDB's and MultiFractal's coefficients, the number itself). Numbers of contours and atoms end at 0. Whole
    numbers (vertices, lines, waves) and all random numbers of the drawing are the original's.
    """

    NAME: ClassVar[str] = "perturbed"
    PAPER: ClassVar[str] = citations.SCALING_BACKWARDS
    NOTE: ClassVar[str] = "It is fracgen's own design: the paper perturbs a fractal, and a photograph."
    HEADING: ClassVar[tuple[str, ...]] = ("formula", "base", "delta", "perturbation", "seed")

    formula: Annotated[
        Literal["rcdb", "visualatom", "exfractaldb", "multifractal"], Setting("What is perturbed.", panel="Formula")
    ] = "rcdb"
    base: Annotated[
        int, Setting("Which class of the formula with this seed.", at_least=0, at_most=100_000, panel="Formula")
    ] = 0
    delta: Annotated[float, Setting("Width of the perturbation.", at_least=0, at_most=1e6, panel="Formula")] = 0.1
    perturbation: Annotated[
        Literal["additive", "multiplicative"],
        Setting("Add U(-delta/2, delta/2), or multiply by U(1-delta, 1+delta).", panel="Formula"),
    ] = "multiplicative"
    classes: Classes = 1000
    seed: Seed = 0
    size: Size = 512
    max_tries: Annotated[
        int,
        Setting(
            "Perturbations tried for a class; some overflow or show nothing.",
            at_least=1,
            at_most=10**6,
            panel="Rejection",
        ),
    ] = 100
    systems: Annotated[SpatialCategories | None, Setting("ExFractalDB's categories up to the base.", option="")] = None

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        if self.systems is not None and (self.formula != "exfractaldb" or len(self.systems) != self.base + 1):
            raise UsageError(f"systems: of exfractaldb alone, and {self.base + 1} of them for base {self.base}")

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Without the categories up to another base, or of another formula."""
        is_other = any(name in overrides and overrides[name] != values.get(name) for name in ("formula", "base"))
        return {name: value for name, value in values.items() if not (is_other and name == "systems")}

    @property
    def title(self) -> str:
        """Name, formula and delta."""
        return f"{self.NAME}-{self.formula}-delta{self.delta:g}"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(size, size); (size, size, 3) of MultiFractal."""
        return (self.size, self.size, 3) if self.formula == "multifractal" else (self.size, self.size)

    @property
    def two_level(self) -> bool:
        """False: no formula has the levels 0 and 127."""
        return False

    def resolve(self, on_try: OnTry | None = None) -> tuple["Perturbed", dict[str, Any]]:
        """The recipe, with the categories of ExFractalDB up to its base where those are what is perturbed.

        Raises DataError where the original's image shows nothing: an atom may begin beyond a small image's border.
        """
        recipe, provenance = self, dict[str, Any]()
        if self.formula == "exfractaldb" and self.systems is None:
            from fracgen.search import find_for_recipe
            from fracgen.search_settings import SpatialSearch

            systems, provenance = find_for_recipe(self.base + 1, SpatialSearch(), on_try)
            recipe = replace(self, systems=systems)
        image = recipe.original.draw(recipe.original.numbers, self.size)
        if image is None or image.min() == image.max():
            raise DataError(f"base {self.base}: shows nothing at size {self.size}; try another --base")
        return recipe, provenance

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of classes that nothing tells apart."""
        return [f"delta 0: all {self.classes} classes are identical"] if self.delta == 0 else []

    @property
    def original(self) -> Original:
        """What is perturbed. Raises UsageError where the recipe is not resolved."""
        return _original(self.formula, self.seed, self.base, self.size, self.systems)

    def draw_eps(self, index: int, attempt: int) -> Floats:
        """One draw of the perturbation of a class, (n,) float64; half-width Delta/2 or Delta."""
        half_width = self.delta / 2 if self.perturbation == "additive" else self.delta
        random = generator(self.seed, index, "eps", attempt).random(len(self.original.numbers))
        eps: Floats = half_width * (2 * random - 1)
        return eps

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Raises UnmakeableError for a class of which no perturbation shows anything.
        """
        original = self.original
        for index in map(self.check_index, indices):
            rejected = Counter[str]()
            for attempt in range(self.max_tries):
                eps = self.draw_eps(index, attempt)
                with np.errstate(over="ignore"):
                    if self.perturbation == "additive":
                        numbers = original.numbers + eps * original.widths
                    else:
                        numbers = original.numbers * (1 + eps)
                image = original.draw(numbers, self.size)
                if image is not None and image.min() < image.max():
                    break
                rejected["overflow" if image is None else "empty"] += 1
            else:
                raise UnmakeableError(
                    f"class {index}: all {self.max_tries} perturbations overflow or show nothing; lower --delta"
                )
            yield Sample(
                image=image,
                index=index,
                label=index,
                metadata={
                    "formula": self.formula,
                    "perturbation": self.perturbation,
                    "eps": eps.tolist(),
                    "numbers": numbers.tolist(),
                },
                rejected=dict(rejected),
            )

    def preview(self) -> Iterator[Column]:
        """The original and some classes; below each class, where it differs."""
        original = self.original.draw(self.original.numbers, self.size)
        assert original is not None, "a category of the search has an image"
        yield [("original", original)]
        for sample in self.render(spread(self.classes, PREVIEW_CLASSES)):
            pair = [255 - image if self.formula == "rcdb" else image for image in (sample.image, original)]
            difference = Difference(image=pair[0], base=pair[1], names=(f"class {sample.label}", "original"))
            yield [(f"class {sample.label}", sample.image), ("", difference)]


@lru_cache(maxsize=16)
def _original(formula: str, seed: int, base: int, size: int, systems: SpatialCategories | None) -> Original:
    if formula == "rcdb":
        return ContourOriginal(seed, base, size)
    if formula == "visualatom":
        return AtomOriginal(seed, base, size)
    if formula == "multifractal":
        return ColourOriginal(seed, base, size)
    if systems is None:
        raise UsageError("the recipe has no categories yet: call resolve() first")
    return SpaceOriginal(seed, base, systems)
