"""Iterated function systems of space, and category sets of them: ExFractalDB's (Kataoka et al., CVPR 2022)."""

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from fracgen.assets import Stored
from fracgen.categories import category_paths, rendered_systems
from fracgen.ifs import MAX_MAPS, P_TOLERANCE, Floats
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import read_text

COLUMNS = 13


@dataclass(frozen=True, eq=False)
class SpatialIFS:
    """A system of affine maps of space, checked and read-only.

    maps: (N, 12) float64, a..l each: a 3 x 3 matrix row by row, and a translation. p: (N,) float64.
    """

    maps: Floats
    p: Floats

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not finite, or p is no distribution (sum within 1e-6 of 1)."""
        maps, p = np.array(self.maps, np.float64), np.array(self.p, np.float64)
        if maps.ndim != 2 or maps.shape[1] != COLUMNS - 1 or p.shape != maps.shape[:1]:
            raise UsageError(f"a system in space has maps (N, 12) and p (N,), not {maps.shape} and {p.shape}")
        if not 1 <= len(maps) <= MAX_MAPS:
            raise UsageError(f"a system has 1 to {MAX_MAPS} maps, not {len(maps)}")
        if not (np.isfinite(maps).all() and np.isfinite(p).all()):
            raise UsageError("a system's numbers must all be finite")
        if (p < 0).any() or abs(math.fsum(p) - 1) > P_TOLERANCE:
            raise UsageError(f"p must be >= 0 and sum to 1 (within {P_TOLERANCE:g}); it sums to {math.fsum(p):.9g}")
        maps.flags.writeable = p.flags.writeable = False
        object.__setattr__(self, "maps", maps)
        object.__setattr__(self, "p", p)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpatialIFS):
            return False
        return np.array_equal(self.maps, other.maps) and np.array_equal(self.p, other.p)

    def __hash__(self) -> int:
        return hash((self.maps.tobytes(), self.p.tobytes()))

    def __len__(self) -> int:
        return len(self.maps)


@dataclass(frozen=True)
class SpatialCategories(Stored):
    """Systems by category number, from 0. As content of a data set they lie in one file."""

    FILE: ClassVar[str] = "spatial-categories.csv"
    CONTENT: ClassVar[str] = "the categories' systems in three dimensions"
    OPTION: ClassVar[str] = "--categories-from"

    systems: tuple[SpatialIFS, ...]

    def __post_init__(self) -> None:
        """Raises UsageError where there are none."""
        object.__setattr__(self, "systems", tuple(self.systems))
        if not self.systems or not all(isinstance(system, SpatialIFS) for system in self.systems):
            raise UsageError("a category set holds systems in space, one or more")

    def __len__(self) -> int:
        return len(self.systems)

    def __getitem__(self, category: int) -> SpatialIFS:
        return self.systems[category]

    @cached_property
    def sha256(self) -> str:
        """Of the numbers."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """CSV: category, a..l, p; a row a map, numbers that give the same floats back."""
        text = io.StringIO()
        text.write("category,a,b,c,d,e,f,g,h,i,j,k,l,p\n")
        for category, system in enumerate(self.systems):
            for row, p in zip(system.maps.tolist(), system.p.tolist(), strict=True):
                text.write(",".join([str(category), *map(repr, row), repr(p)]) + "\n")
        return text.getvalue().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises UsageError where it is something else."""
        tables: list[list[list[float]]] = []
        try:
            lines = csv.reader(data.decode("ascii").splitlines())
            next(lines)
            for category, *numbers in lines:
                if int(category) == len(tables):
                    tables.append([])
                if int(category) != len(tables) - 1 or len(numbers) != COLUMNS:
                    raise ValueError("rows out of order, or of another length")
                tables[-1].append([float(number) for number in numbers])
            return cls(tuple(_system(table) for table in tables))
        except (ValueError, IndexError, StopIteration, csv.Error) as error:
            raise UsageError(f"{cls.FILE}: damaged ({error})") from None


def load_spatial_categories(folder: Path | str, *, count: int | None = None) -> SpatialCategories:
    """Read a folder of published category files, `000000.csv` and on; they may lie in folders below it.

    A rendered folder of ExFractalDB gives its own. count: how many, from 0; all by default.
    Raises UsageError with the file or the number, as `categories.load_categories` does.
    """
    folder = Path(folder)
    if (systems := rendered_systems(folder, SpatialCategories, count)) is not None:
        return SpatialCategories(systems)
    return SpatialCategories(tuple(map(_load, category_paths(folder, count))))


def spatial_category_files(systems: Sequence[SpatialIFS]) -> dict[str, bytes]:
    """The published files by name, 000000.csv and on: a row a..l, p a map, as numpy writes it."""
    files = {}
    for category, system in enumerate(systems):
        rows = np.column_stack([system.maps, system.p]).tolist()
        text = "".join(",".join(f"{number:.18e}" for number in row) + "\n" for row in rows)
        files[f"{category:06d}.csv"] = text.encode()
    return files


def _load(path: Path) -> SpatialIFS:
    table = []
    for number, fields in enumerate(csv.reader(read_text(path).splitlines()), start=1):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != COLUMNS:
            raise UsageError(f"{path}: line {number} has {len(fields)} columns; a category has 13: a to l, and p")
        try:
            table.append([float(field) for field in fields])
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: {error}; a category is numbers only") from None
    if not table:
        raise UsageError(f"{path}: empty; a category has one row of a to l, and p, per map")
    try:
        return _system(table)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _system(table: Sequence[Sequence[float]]) -> SpatialIFS:
    numbers = np.array(table)
    return SpatialIFS(numbers[:, :-1], numbers[:, -1])
