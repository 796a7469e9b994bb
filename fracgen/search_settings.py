"""Which categories the searches of FractalDB and ExFractalDB find: settings, and the files that keep their results."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from fracgen.categories import Categories
from fracgen.ifs import IFS
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


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which categories of FractalDB are found. Defaults are the published search.

    OUTCOMES: what a candidate may be; "found" is number 1. MEND: where none is.
    """

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

    SYSTEM: ClassVar[type[IFS]] = IFS
    CATEGORIES: ClassVar[type[Categories]] = Categories
    OUTCOMES: ClassVar[tuple[str, ...]] = ("fill", "found", "overflow", "flat")
    MEND: ClassVar[str] = "lower --min-fill"

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)

    @property
    def least(self) -> int:
        """Least number of pixels that a category lights."""
        return math.ceil(self.min_fill * SIZE**2)

    def cache_path(self, cache: Path) -> Path:
        """Where in a cache folder this search is kept."""
        return cache / f"categories-v{CACHE_RULE}-seed{self.seed}-least{self.least}.npz"

    def is_cached(self, cache: Path) -> bool:
        """Whether something of this search is kept."""
        return self.cache_path(cache).is_file()


@dataclass(frozen=True, kw_only=True)
class SpatialSearch:
    """Which categories of ExFractalDB are found; they are kept as those of `Search` are.

    The published search has no seed, so that its own categories cannot be found again; with a seed it is exact.
    """

    seed: SpatialSeed = 1
    min_variance: MinVariance = 0.05

    SYSTEM: ClassVar[type[SpatialIFS]] = SpatialIFS
    CATEGORIES: ClassVar[type[SpatialCategories]] = SpatialCategories
    OUTCOMES: ClassVar[tuple[str, ...]] = ("variance", "found", "overflow")
    MEND: ClassVar[str] = "lower --min-variance"

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)

    def cache_path(self, cache: Path) -> Path:
        """Where in a cache folder this search is kept."""
        return cache / f"spatial-categories-v{CACHE_RULE}-seed{self.seed}-variance{self.min_variance!r}.npz"

    def is_cached(self, cache: Path) -> bool:
        """Whether something of this search is kept."""
        return self.cache_path(cache).is_file()
