"""Which categories FractalDB's search finds: its settings, and the file in which its results are kept."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fracgen.rng import MAX_LEGACY_SEED
from fracgen.shards.settings import Setting, check_settings

CACHE_RULE = 1
"""Of the cache's files; another rule, another name."""
SIZE = 512
"""Width and height in pixels of the images by which candidates are judged."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which categories are found. Defaults are the published search."""

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
