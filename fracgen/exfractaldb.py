"""ExFractalDB, MV-FractalDB and 3D-OFDB: fractals of space, looked at from around (Kataoka et al., CVPR 2022).

A category is a system of affine maps of space; an instance of it has a weight on one coefficient of every map, and a
cloud of points, of which several views are drawn. Published images are RGB with equal channels; here they are gray.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fracgen import citations
from fracgen.arithmetic import add, fused
from fracgen.categories import CategorySet
from fracgen.ifs import Floats
from fracgen.recipe import Column, Seed, UnmakeableError, spread
from fracgen.rng import generator
from fracgen.search_settings import MinVariance, SpatialSearch, SpatialSeed
from fracgen.searched import SearchedRecipe
from fracgen.shards.sample import Sample
from fracgen.shards.settings import Setting
from fracgen.spatial import SpatialCategories, SpatialIFS
from fracgen.style import MAX_POINTS, Size

LEVELS = tuple(round(0.4 + 0.1 * k, 1) for k in range(13))
"""Factors of a coefficient."""
DISTANCE, FIELD_OF_VIEW, START_ANGLE = 4.0, 45.0, 30.0
"""Of the camera from the origin; degrees from bottom to top; degrees at which the first fixed view is."""
MAX_VIEW_TRIES = 100
PREVIEW_CATEGORIES = 6


@cache
def spatial_weights() -> Floats:
    """The published weights, (145, 12): a takes 0.4, 0.5 .. 1.6, and the rest are 1; then b and on, 1 left out."""
    places = [(0, level) for level in LEVELS]
    places += [(column, level) for column in range(1, 12) for level in LEVELS if level != 1]
    vectors = np.ones((len(places), 12))
    for vector, (column, level) in zip(vectors, places, strict=True):
        vector[column] = level
    vectors.flags.writeable = False
    return vectors


@dataclass(frozen=True, kw_only=True)
class ExFractalDB(SearchedRecipe):
    """The recipe of ExFractalDB and its kin: categories x weight vectors x views.

    The label is the category. Index: (category * number of weight vectors + weight vector) * num_views + view.
    views: "fixed" are MV-FractalDB's, which the published programs render: a turn around the upright axis, each view
    with a jitter of its own. "random" are ExFractalDB's, whose law was not published: here each is a rotation drawn
    uniformly.
    weights: "all" are the 145 vectors; "first" is a x 0.4 alone, which with fixed views is 3D-OFDB; "identity" is the
    system that passed the search's test.

    The published programs have no seed, neither for the categories nor for clouds and views: given a seed, the search
    and the clouds are computed as they do, bit for bit, but the published set itself cannot be made again.
    """

    NAME: ClassVar[str] = "exfractaldb"
    CATEGORIES: ClassVar[type[CategorySet[Any]]] = SpatialCategories
    PAPER: ClassVar[str] = citations.EXFRACTALDB
    NOTE: ClassVar[str] = (
        "It has the published distribution, not the published images: the original has no seed. The law of random\n"
        "views was not published; uniform rotations are fracgen's own."
    )
    HEADING: ClassVar[tuple[str, ...]] = ("categories", "weights", "views", "seed")
    PROVENANCE: ClassVar[frozenset[str]] = frozenset({"search_seed", "min_variance"})

    views: Annotated[
        Literal["random", "fixed"],
        Setting("Views from anywhere (ExFractalDB), or around the upright axis (MV-FractalDB).", panel="Formula"),
    ] = "random"
    num_views: Annotated[int, Setting("Views of each cloud.", at_least=1, at_most=10_000, panel="Formula")] = 12
    weights: Annotated[
        Literal["all", "first", "identity"],
        Setting("All 145 weight vectors, the first alone (3D-OFDB), or none.", panel="Formula"),
    ] = "all"
    seed: Seed = 0
    size: Size = 224
    points: Annotated[
        int, Setting("Points of a cloud, and one more.", at_least=2, at_most=MAX_POINTS, panel="Image")
    ] = 10_000
    search_seed: SpatialSeed = 1
    min_variance: MinVariance = 0.05
    systems: Annotated[
        SpatialCategories | None, Setting("The categories, instead of a search for them.", option="")
    ] = None

    def __len__(self) -> int:
        return self.categories * len(self.vectors) * self.num_views

    @property
    def vectors(self) -> Floats:
        """The weight vectors, (n, 12)."""
        vectors = spatial_weights()
        first, identity = vectors[:1], np.ones((1, 12))
        return {"all": vectors, "first": first, "identity": identity}[self.weights]

    @property
    def title(self) -> str:
        """Name, classes and images a class."""
        return f"{self.NAME}-{self.views}-{self.categories}x{len(self.vectors) * self.num_views}"

    @property
    def group(self) -> int:
        """Views of one cloud share it."""
        return self.num_views

    @property
    def two_level(self) -> bool:
        """False: its levels are 0 and 255."""
        return False

    @property
    def search(self) -> SpatialSearch:
        """The settings of the search for its categories."""
        return SpatialSearch(seed=self.search_seed, min_variance=self.min_variance)

    def cloud(self, group: int) -> tuple[npt.NDArray[np.float32], Floats, int]:
        """The points of one category and weight vector, normalised: (T - 1, 3) float32; the weights; rejected draws.

        Where an orbit overflows (one weight vector in 280, which the published programs leave out), the category's own
        system takes its place, with points of its own, so that all classes have as many images.
        Raises UsageError where the recipe is not resolved, UnmakeableError where that overflows too, or is one point.
        """
        category, weight = divmod(group, len(self.vectors))
        system: SpatialIFS = self.category(category)
        for attempt, vector in enumerate((self.vectors[weight], np.ones(12))):
            uniforms = generator(self.seed, group, "cloud", attempt).random(self.points)
            if (points := trace_cloud(system.maps * vector, system.p, uniforms)) is not None:
                return points, vector, attempt
        raise UnmakeableError(f"category {category}: its orbit overflows, or is one point")

    def camera(self, index: int, attempt: int = 0) -> tuple[Floats, dict[str, Any]]:
        """The camera (3, 4) of an image, and what its metadata says of it. attempt: above 0 where none saw a point."""
        unit = generator(self.seed, index, "view", attempt).random
        if self.views == "fixed":
            view = index % self.num_views
            jitter = math.pi * (2 * unit() - 1)  # degrees, of a range in radians: as published
            angle = 2 * math.pi * view / self.num_views + math.radians(START_ANGLE) + math.radians(jitter)
            return turned_camera(angle), {"view": view, "jitter_degrees": jitter}
        rotation = uniform_rotation(unit(), unit(), unit())
        return look_at(rotation @ (-1.0, 0.0, 0.0), rotation @ (0.0, 1.0, 0.0)), {"rotation": rotation.ravel().tolist()}

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Neighbours of one category and weight vector share their cloud. A view of nothing is drawn again, and counted.
        Raises UnmakeableError as `cloud` does, and where no view shows a point.
        """
        from fracgen import spatial_kernels

        for group, members in groupby(map(self.check_index, indices), lambda index: index // self.group):
            category = group // len(self.vectors)
            points, weights, overflow = self.cloud(group)
            for index in members:
                image = np.zeros((self.size, self.size), np.uint8)
                for empty in range(MAX_VIEW_TRIES):
                    camera, view = self.camera(index, empty)
                    if seen := int(spatial_kernels.project(points, camera, self.size, image)):
                        break
                else:
                    raise UnmakeableError(f"category {category}: shows nothing in {MAX_VIEW_TRIES} views")
                rejected = {"overflow": overflow, "empty": empty}
                yield Sample(
                    image=image,
                    index=index,
                    label=category,
                    metadata={
                        "formula": self.NAME,
                        "category": category,
                        "weights": weights.tolist(),
                        **view,
                        "points": seen,
                    },
                    rejected={reason: count for reason, count in rejected.items() if count},
                )

    def preview(self) -> Iterator[Column]:
        """Columns of categories: some views of one cloud, and of another weight vector."""
        last = len(self.vectors) - 1
        for category in spread(self.categories, PREVIEW_CATEGORIES):
            shown = dict.fromkeys([(0, 0), (0, self.num_views // 3), (0, 2 * self.num_views // 3), (last, 0)])
            first = category * len(self.vectors)
            samples = self.render((first + weight) * self.num_views + view for weight, view in shown)
            names = [f"weight vector {weight}" if weight else f"{category:06d} view {view}" for weight, view in shown]
            yield [(name, sample.image) for name, sample in zip(names, samples, strict=True)]


def trace_cloud(maps: Floats, p: Floats, uniforms: Floats) -> npt.NDArray[np.float32] | None:
    """The normalised points of maps (N, 12) chosen by uniforms (T,): (T - 1, 3); None if they overflow or are one."""
    from fracgen import spatial_kernels

    points = np.empty((len(uniforms) - 1, 3))
    spatial_kernels.trace_cloud(maps, p, uniforms, points)
    return points.astype(np.float32) if spatial_kernels.normalise_cloud(points) else None


def turned_camera(angle: float) -> Floats:
    """The published fixed camera, turned about the upright axis by `angle` radians: (3, 4), see `look_at`."""
    return look_at(np.array([-math.cos(angle), 0.0, math.sin(angle)]), np.array([0.0, 1.0, 0.0]))


def look_at(direction: Floats, up: Floats) -> Floats:
    """The camera that looks at the origin from `direction` (3,), of length 1: (3, 4) float64.

    Its rows turn (x, y, z, 1) into coordinates to the right, upward and towards the viewer, with the focal length in
    the first two: right / distance and upward / distance are in -1..1 within the field of view.
    """
    eye = DISTANCE * direction
    right = np.cross(-direction, up)
    right /= math.sqrt(add(number * number for number in right.tolist()))
    axes = np.stack([right, np.cross(right, -direction), direction])
    x, y, z = eye.tolist()  # products not by numpy, whose last bits follow the processor
    moved = [fused(axis[2], z, fused(axis[0], x, axis[1] * y)) for axis in axes.tolist()]
    camera = np.column_stack([axes, np.negative(moved)])
    camera[:2] /= math.tan(math.radians(FIELD_OF_VIEW / 2))
    return camera


def uniform_rotation(first: float, second: float, third: float) -> Floats:
    """A uniform rotation (3, 3) from three uniforms in [0, 1): that of a random unit quaternion (Shoemake, 1992)."""
    short, long = math.sqrt(1 - first), math.sqrt(first)
    x, y = short * math.sin(2 * math.pi * second), short * math.cos(2 * math.pi * second)
    z, w = long * math.sin(2 * math.pi * third), long * math.cos(2 * math.pi * third)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
