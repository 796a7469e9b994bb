"""Iterated function systems of space, and category sets of them: ExFractalDB's (Kataoka et al., CVPR 2022)."""

from dataclasses import dataclass
from typing import ClassVar, Self

from fracgen.categories import CategorySet
from fracgen.ifs import Floats, System


@dataclass(frozen=True, eq=False)
class SpatialIFS(System):
    """A system of affine maps of space: maps (N, 12), a..l each, a 3 x 3 matrix row by row and a translation."""

    SHAPE: ClassVar[tuple[int, ...]] = (12,)
    COLUMNS: ClassVar[tuple[str, ...]] = tuple("abcdefghijkl")

    @property
    def rows(self) -> Floats:
        """The maps as they are, (N, 12) float64."""
        return self.maps

    @classmethod
    def from_rows(cls, rows: Floats, p: Floats) -> Self:
        """The inverse of `rows`, with probabilities."""
        return cls(rows, p)


@dataclass(frozen=True)
class SpatialCategories(CategorySet[SpatialIFS]):
    """ExFractalDB's categories."""

    FILE: ClassVar[str] = "spatial-categories.csv"
    CONTENT: ClassVar[str] = "the categories' systems in three dimensions"
    OPTION: ClassVar[str] = "--categories-from"
    SYSTEM: ClassVar[type[System]] = SpatialIFS
    DIGITS: ClassVar[int] = 6
