"""FractalDB and OFDB: a thousand fractals, each a class (Kataoka et al., ACCV 2020; Nakamura et al., ICCV 2023).

FractalDB draws each category with 25 weight vectors on its coefficients, several times with fresh patch masks, in
four flips; OFDB draws each once. The categories come from the published search (`search`), or from a folder.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.categories import Categories, CategorySet
from fracgen.ifs import IFS, Floats, maps_from_rows
from fracgen.recipe import Column, DrawnRecipe, spread
from fracgen.rng import MAX_SEED, stream_key
from fracgen.searched import SearchedRecipe
from fracgen.shards.errors import DataError
from fracgen.shards.sample import Sample
from fracgen.shards.settings import Setting
from fracgen.style import Color, Draw, Pad, Patch, Points, Size

if TYPE_CHECKING:
    from fracgen.renderer import Renderer
    from fracgen.search_settings import Search

FLIPS = ("none", "top-bottom", "left-right", "both")
_LEVELS = 5
_PREVIEW_CATEGORIES = 6


@cache
def weight_vectors(step: float) -> Floats:
    """The published weights, (25, 6): a is 1 - 2 step .. 1 + 2 step and the rest 1; then b and on, 1 left out."""
    levels = [round(1 + k * step, 12) for k in range(-(_LEVELS // 2), _LEVELS // 2 + 1)]
    vectors = np.ones((1 + 6 * (_LEVELS - 1), 6))
    places = [(0, level) for level in levels]
    places += [(column, level) for column in range(1, 6) for level in levels if level != 1]
    for vector, (column, level) in zip(vectors, places, strict=True):
        vector[column] = level
    vectors.flags.writeable = False
    return vectors


@dataclass(frozen=True, kw_only=True)
class CategoryRecipe(DrawnRecipe, SearchedRecipe):
    """What FractalDB and OFDB share: categories drawn in one style."""

    CATEGORIES: ClassVar[type[CategorySet[Any]]] = Categories

    seed: Annotated[
        int,
        Setting(
            "Seed of the patch masks; the search for categories has its own.",
            at_least=0,
            at_most=MAX_SEED,
            panel="Formula",
        ),
    ] = 0
    size: Size = 362
    pad: Pad = 6
    points: Points = 200_000
    draw: Draw = "patch"
    color: Color = "gray"
    patch: Patch = "random"
    systems: Annotated[Categories | None, Setting("The categories, instead of a search for them.", option="")] = None

    @property
    def title(self) -> str:
        """Name, classes and images a class."""
        return f"{self.NAME}-{self.categories}x{len(self) // self.categories}"

    @property
    def search(self) -> "Search":
        """The settings of the search for its categories: the published ones."""
        from fracgen.search_settings import Search

        return Search()

    def system(self, category: int) -> tuple[Floats, Floats]:
        """(maps, p) of a category. Raises UsageError where the recipe is not resolved."""
        system: IFS = self.category(category)
        return system.maps, system.p

    def trace(self, renderer: "Renderer", category: int, weights: Floats) -> None:
        """Trace a category with weights (6,) on its coefficients. Raises DataError where nothing is left to draw."""
        maps, p = self.system(category)
        with np.errstate(over="ignore"):  # a coefficient of infinity is drawn like any other
            renderer.trace(p, maps * maps_from_rows(np.broadcast_to(weights, (len(maps), 6))))
        if not renderer.length():
            raise DataError(f"category {category}: its orbit overflows at once with weights {weights.tolist()}")


@dataclass(frozen=True, kw_only=True)
class FractalDB(CategoryRecipe):
    """The recipe of FractalDB: categories x 25 weight vectors x instances x 4 flips.

    Instances have random masks of their own; the label is the category.
    Index: ((category * 25 + weight) * instances + instance) * 4 + flip.
    """

    NAME: ClassVar[str] = "fractaldb"
    PAPER: ClassVar[str] = citations.FRACTALDB
    HEADING: ClassVar[tuple[str, ...]] = ("categories", "instances", "weights", "seed")

    instances: Annotated[
        int,
        Setting("Drawings of each weight vector, each in four flips.", at_least=1, at_most=100_000, panel="Formula"),
    ] = 10
    weights: Annotated[
        float, Setting("Step of the 25 weight vectors.", at_least=1e-6, at_most=1000, panel="Formula")
    ] = 0.4

    def __len__(self) -> int:
        return self.categories * len(weight_vectors(self.weights)) * self.group

    @property
    def group(self) -> int:
        """Instances and flips of one weight vector share its orbit."""
        return self.instances * len(FLIPS)

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of instances that nothing tells apart."""
        if self.instances > 1 and not self.style.random_masks:
            return [f"instances {self.instances}: they are identical, as only random patch masks tell them apart"]
        return []

    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Neighbours of one weight vector share their orbit, and flips of one instance their drawing.
        """
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            for group, members in groupby(map(self.check_index, indices), lambda index: index // self.group):
                category, weight = divmod(group, len(weight_vectors(self.weights)))
                weights = weight_vectors(self.weights)[weight]
                self.trace(renderer, category, weights)
                for instance, flips in groupby(members, lambda index: index % self.group // len(FLIPS)):
                    key = stream_key(self.seed, group * self.instances + instance, "masks", pass_number)
                    renderer.stamp(mask_key=key)
                    for index in flips:
                        flip = index % len(FLIPS)
                        yield Sample(
                            image=renderer.image(top_bottom=flip in (1, 3), left_right=flip in (2, 3)),
                            index=index,
                            label=category,
                            metadata={
                                "formula": self.NAME,
                                "category": category,
                                "weights": weights.tolist(),
                                "instance": instance,
                                "flip": FLIPS[flip],
                                "points": renderer.length(),
                                "mask_key": f"{key:016x}",
                            },
                            counts={"trimmed": int(renderer.diverged())},
                        )

    def preview(self) -> Iterator[Column]:
        """Columns of categories: each as it is, with other weights, as another instance, and mirrored."""
        vectors = weight_vectors(self.weights)
        identity, last = int(np.flatnonzero((vectors == 1).all(axis=1))[0]), len(vectors) - 1
        for category in spread(self.categories, _PREVIEW_CATEGORIES):
            shown = {
                f"{category:05d}": (identity, 0, 0),
                f"a x {vectors[0, 0]:g}": (0, 0, 0),
                f"f x {vectors[last, 5]:g}": (last, 0, 0),
                f"instance {self.instances - 1}": (identity, self.instances - 1, 0),
                FLIPS[2]: (identity, 0, 2),
            }
            indices = [
                (category * len(vectors) + weight) * self.group + instance * len(FLIPS) + flip
                for weight, instance, flip in shown.values()
            ]
            images = [sample.image for sample in self.render(indices)]
            yield list(zip(shown, images, strict=True))


@dataclass(frozen=True, kw_only=True)
class OFDB(CategoryRecipe):
    """The recipe of OFDB: one image a category.

    weights: "identity" is the system that passed the search's fill test; "published" is vector 0 of FractalDB's
    weights, a x 0.2, as the released script takes it.
    """

    NAME: ClassVar[str] = "ofdb"
    PAPER: ClassVar[str] = citations.OFDB
    HEADING: ClassVar[tuple[str, ...]] = ("categories", "weights", "seed")

    weights: Annotated[
        Literal["identity", "published"],
        Setting("The system as it was found, or a x 0.2 as in the published script.", panel="Formula"),
    ] = "identity"

    def __len__(self) -> int:
        return self.categories

    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them."""
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            weights = weight_vectors(0.4)[0] if self.weights == "published" else np.ones(6)
            for index in map(self.check_index, indices):
                self.trace(renderer, index, weights)
                key = stream_key(self.seed, index, "masks", pass_number)
                yield Sample(
                    image=renderer.draw(mask_key=key),
                    index=index,
                    label=index,
                    metadata={
                        "formula": self.NAME,
                        "category": index,
                        "weights": weights.tolist(),
                        "points": renderer.length(),
                        "mask_key": f"{key:016x}",
                    },
                    counts={"trimmed": int(renderer.diverged())},
                )

    def preview(self) -> Iterator[Column]:
        """Columns of categories."""
        chosen = spread(self.categories, 4 * _PREVIEW_CATEGORIES)
        images = [(f"{sample.label:05d}", sample.image) for sample in self.render(chosen)]
        for start in range(0, len(images), 4):
            yield images[start : start + 4]
