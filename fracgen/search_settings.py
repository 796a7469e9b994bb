"""Which categories the searches of FractalDB and ExFractalDB find: settings, and the files that keep their results."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from fracgen.categories import Categories, CategorySet
from fracgen.ifs import IFS, System
from fracgen.rng import MAX_LEGACY_SEED
from fracgen.shards.settings import Setting, check_settings
from fracgen.spatial import SpatialCategories, SpatialIFS

CACHE_RULE = 1
"""Of the cache's files; another rule, another name."""
SIZE = 512
"""Width and height in pixels of the images by which candidates are judged."""

SpatialSeed = Annotated[
    int, Setting("Seed of the search for categories.", at_least=0, at_most=MAX_LEGACY_SEED, panel="Search")
]
MinVariance = Annotated[
    float,
    Setting(
        "Variance that a category exceeds on every axis; the published scripts have 0.05.",
        at_least=0,
        at_most=1,
        panel="Search",
    ),
]


SomeCategories = TypeVar("SomeCategories", bound=CategorySet[Any], covariant=True)


class CategorySearch(ABC, Generic[SomeCategories]):
    """Which categories are found: what the settings of every search are.

    SYSTEM, CATEGORIES: of what kind they are. OUTCOMES: what a candidate may be; "found" is number 1. MEND: where none
    is.
    """

    SYSTEM: ClassVar[type[System]]
    CATEGORIES: ClassVar[type[CategorySet[Any]]]
    OUTCOMES: ClassVar[tuple[str, ...]]
    MEND: ClassVar[str]

    seed: int

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)

    @property
    @abstractmethod
    def cache_name(self) -> str:
        """Name of the file in which this search is kept."""

    def cache_path(self, cache: Path) -> Path:
        """Where in a cache folder this search is kept."""
        return cache / self.cache_name

    def is_cached(self, cache: Path) -> bool:
        """Whether something of this search is kept."""
        return self.cache_path(cache).is_file()


@dataclass(frozen=True, kw_only=True)
class Search(CategorySearch[Categories]):
    """Which categories of FractalDB are found. Defaults are the published search."""

    seed: Annotated[
        int,
        Setting(
            "Seed of numpy's legacy generator; the published one is 1.",
            at_least=0,
            at_most=MAX_LEGACY_SEED,
            panel="Formula",
        ),
    ] = 1
    min_fill: Annotated[
        float,
        Setting("Least share of 512 x 512 pixels that 100,000 points light.", at_least=0, at_most=1, panel="Formula"),
    ] = 0.2

    SYSTEM: ClassVar[type[System]] = IFS
    CATEGORIES: ClassVar[type[CategorySet[Any]]] = Categories
    OUTCOMES: ClassVar[tuple[str, ...]] = ("fill", "found", "overflow", "flat")
    MEND: ClassVar[str] = "lower --min-fill"

    @property
    def least(self) -> int:
        """Least number of pixels that a category lights."""
        return math.ceil(self.min_fill * SIZE**2)

    @property
    def cache_name(self) -> str:
        """Name of the file in which this search is kept."""
        return f"categories-v{CACHE_RULE}-seed{self.seed}-least{self.least}.npz"


@dataclass(frozen=True, kw_only=True)
class SpatialSearch(CategorySearch[SpatialCategories]):
    """Which categories of ExFractalDB are found.

    The published search has no seed, so that its own categories cannot be found again; with a seed it is exact.
    """

    seed: SpatialSeed = 1
    min_variance: MinVariance = 0.05

    SYSTEM: ClassVar[type[System]] = SpatialIFS
    CATEGORIES: ClassVar[type[CategorySet[Any]]] = SpatialCategories
    OUTCOMES: ClassVar[tuple[str, ...]] = ("variance", "found", "overflow")
    MEND: ClassVar[str] = "lower --min-variance"

    @property
    def cache_name(self) -> str:
        """Name of the file in which this search is kept."""
        return f"spatial-categories-v{CACHE_RULE}-seed{self.seed}-variance{self.min_variance!r}.npz"
