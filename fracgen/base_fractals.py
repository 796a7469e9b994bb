"""The base fractals of a 1p-frac: one, or several, each perturbed into classes of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from fracgen.categories import Categories, CategorySet
from fracgen.ifs import IFS, System, load_ifs
from fracgen.shards.errors import UsageError
from fracgen.shards.manifest import MANIFEST


@dataclass(frozen=True)
class Bases(CategorySet[IFS]):
    """Base fractals by number, from 0. One stands in the recipe itself; several lie in a file beside it."""

    FILE: ClassVar[str] = "bases.csv"
    CONTENT: ClassVar[str] = "the base fractals"
    OPTION: ClassVar[str] = "--ifs takes base fractals"
    SYSTEM: ClassVar[type[System]] = IFS
    DIGITS: ClassVar[int] = 5

    @property
    def is_inline(self) -> bool:
        """Whether it stands in the recipe itself."""
        return len(self) == 1

    def to_plain(self) -> dict[str, Any]:
        """What stands in a recipe: one fractal as its own plain form, of several the file and its sha256."""
        return self[0].to_plain() if self.is_inline else super().to_plain()

    @classmethod
    def from_plain(cls, values: Any) -> Self:
        """Base fractals from one or a sequence, each an `IFS` or its plain form. Raises UsageError for others."""
        several = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
        return cls(tuple(each if isinstance(each, IFS) else IFS.from_plain(each) for each in several))


def load_bases(paths: Sequence[Path], count: int | None = None) -> Bases:
    """Read base fractals, one after the other: each a CSV, our JSON, or a folder.

    A rendered 1p-frac gives its own, a FractalDB or OFDB its categories, as does a folder of category files.
    count: how many, the first of them; all by default. Raises as `load_ifs` and `CategorySet.load`.
    """
    systems: list[IFS] = []
    for path in paths:
        systems += _read(path)
    if count is not None and count > len(systems):
        raise UsageError(f"--bases {count}: --ifs gives {len(systems)}; lower it, or leave it out for all of them")
    return Bases(tuple(systems[:count]))


def _read(path: Path) -> Sequence[IFS]:
    if (path / MANIFEST).is_file():
        kinds = [kind for kind in (Bases, Categories) if (path / kind.FILE).is_file()]
        return kinds[0].load(path).systems if kinds else [load_ifs(path)]
    return Categories.load(path).systems if any(path.glob("*.csv")) else [load_ifs(path)]
