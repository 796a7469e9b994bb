"""Iterated function systems of space, and category sets of them: ExFractalDB's (Kataoka et al., CVPR 2022)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from fracgen.categories import CategorySet, category_files, category_paths, rendered_systems
from fracgen.ifs import Floats, System, parse_system
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import read_text


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


def load_spatial_categories(folder: Path | str, *, count: int | None = None) -> SpatialCategories:
    """Read a folder of published category files, `000000.csv` and on; they may lie in folders below it.

    A rendered folder of ExFractalDB gives its own. count: how many, from 0; all by default.
    Raises UsageError with the file or the number, as `categories.load_categories` does.
    """
    folder = Path(folder)
    if (systems := rendered_systems(folder, SpatialCategories, count)) is not None:
        return SpatialCategories(systems)
    return SpatialCategories(tuple(map(_load, category_paths(folder, count))))


def spatial_category_files(systems: Sequence[SpatialIFS]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the published files, 000000.csv and on: a row a..l, p a map, as numpy writes it."""
    return category_files(systems, SpatialCategories.DIGITS)


def _load(path: Path) -> SpatialIFS:
    try:
        return parse_system(SpatialIFS, read_text(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
