"""Category sets: the systems of FractalDB and OFDB, from folders of published CSV files and back."""

import contextlib
import csv
import fcntl
import hashlib
import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import numpy as np

from fracgen.assets import Stored
from fracgen.ifs import IFS, SomeSystem, System, parse_system
from fracgen.shards.errors import UsageError
from fracgen.shards.files import check_local, unique_temporary, write_atomically
from fracgen.shards.manifest import MANIFEST
from fracgen.shards.plan import read_input
from fracgen.shards.settings import convert, read_text
from fracgen.style import check_range

MAX_CATEGORIES = 1_000_000
_OLD_SECONDS = 60
_TEMPORARY = re.compile(r"\.\d{5,}\.csv\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class CategorySet(Stored, Generic[SomeSystem]):
    """Systems by category number, from 0. As content of a data set they lie in one file.

    SYSTEM: of what kind they are. DIGITS: of a category's number in the names of published files.
    """

    SYSTEM: ClassVar[type[System]]
    DIGITS: ClassVar[int]

    systems: tuple[SomeSystem, ...]

    def __post_init__(self) -> None:
        """Raises UsageError where there are no systems, or others."""
        object.__setattr__(self, "systems", tuple(self.systems))
        if not self.systems:
            raise UsageError("no categories; there must be at least one")
        if not all(isinstance(system, self.SYSTEM) for system in self.systems):
            raise UsageError(f"categories must each be an {self.SYSTEM.__name__}")

    def __len__(self) -> int:
        return len(self.systems)

    def __getitem__(self, category: int) -> SomeSystem:
        return self.systems[category]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file (hex)."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file: a row of category, the system's COLUMNS and p for each map; the floats survive exactly."""
        text = io.StringIO()
        text.write(",".join(["category", *self.SYSTEM.COLUMNS, "p"]) + "\n")
        for category, system in enumerate(self.systems):
            for row, p in zip(system.rows.tolist(), system.p.tolist(), strict=True):
                text.write(",".join([str(category), *map(repr, row), repr(p)]) + "\n")
        return text.getvalue().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises UsageError where it is something else."""
        rows: list[list[list[float]]] = []
        try:
            lines = csv.reader(data.decode("ascii").splitlines())
            next(lines)
            for category, *numbers in lines:
                if int(category) == len(rows):
                    rows.append([])
                if int(category) != len(rows) - 1 or len(numbers) != len(cls.SYSTEM.COLUMNS) + 1:
                    raise ValueError("rows out of order, or of another length")
                rows[-1].append([float(number) for number in numbers])
            tables = [np.array(table) for table in rows]
            systems: Any = tuple(cls.SYSTEM.from_rows(table[:, :-1], table[:, -1]) for table in tables)
            return cls(systems)
        except (ValueError, IndexError, StopIteration, csv.Error) as error:
            raise UsageError(f"{cls.FILE}: damaged ({error})") from None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of the published files, 00000.csv and on: a row of COLUMNS and p a map, as numpy writes it."""
        for category, system in enumerate(self.systems):
            rows = np.column_stack([system.rows, system.p])
            text = "".join(",".join(f"{number:.18e}" for number in row) + "\n" for row in rows.tolist())
            yield self.file_name(category), text.encode()

    @classmethod
    def file_name(cls, category: int) -> str:
        """The name of a category's published file."""
        return f"{category:0{cls.DIGITS}d}.csv"

    @classmethod
    def load(cls, folder: Path | str, *, count: int | None = None) -> Self:
        """Read a folder of published category files, `00000.csv` and on; they may lie in folders below it.

        A rendered folder of such categories gives its own. count: how many, from 0; all by default. Files that are no
        CSV are passed over.
        Raises UsageError with the file or the number: a name that is no number, a number that is missing or there
        twice, a file that is malformed or not the one of the rendered folder, or fewer than `count`; DataError for a
        rendered folder that is damaged.
        """
        folder = Path(folder)
        if (systems := cls._rendered(folder, count)) is not None:
            return cls(systems)
        return cls(tuple(cls._load_system(path) for path in _category_paths(folder, count, cls)))

    @classmethod
    def _rendered(cls, folder: Path, count: int | None) -> tuple[SomeSystem, ...] | None:
        """The first `count` systems that a rendered folder carries, all by default; None where a folder is none."""
        if not (folder / MANIFEST).is_file():
            return None
        if not (folder / cls.FILE).is_file():
            raise UsageError(
                f"{folder}: a data set without {cls.FILE}; name one that has it, or a folder of categories"
            )
        categories = cls.from_bytes(read_input(folder, cls.FILE))
        if count is not None and count > len(categories):
            raise UsageError(f"{folder}: holds {len(categories)} categories, {count} are asked for; lower --categories")
        return categories.systems[:count]

    @classmethod
    def _load_system(cls, path: Path) -> Any:
        try:
            return parse_system(cls.SYSTEM, read_text(path))
        except (UsageError, csv.Error) as error:
            raise UsageError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Categories(CategorySet[IFS]):
    """FractalDB's and OFDB's categories."""

    FILE: ClassVar[str] = "categories.csv"
    CONTENT: ClassVar[str] = "the systems of the categories"
    OPTION: ClassVar[str] = "--categories-from takes categories"
    SYSTEM: ClassVar[type[System]] = IFS
    DIGITS: ClassVar[int] = 5


def load_categories(folder: Path | str, *, count: int | None = None) -> Categories:
    """FractalDB's and OFDB's categories from a folder: `CategorySet.load`."""
    return Categories.load(folder, count=count)


def _category_paths(folder: Path, count: int | None, kind: type[CategorySet[Any]]) -> list[Path]:
    """The files of categories 0, 1 and on in a folder and those below it. Raises UsageError as `CategorySet.load`."""
    names = f"{kind.file_name(0)}, {kind.file_name(1)} ..."
    if count is not None:
        count = convert(int, count, "categories")
        check_range("categories", count, 1, MAX_CATEGORIES)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; give a folder with category files {names}")
    files: dict[int, Path] = {}
    for path in _csv_files(folder):
        if not path.is_file() or (number := _number(path)) is None:
            raise UsageError(
                f"{path}: a category file is named by its number, as {kind.file_name(0)}; move this one away"
            )
        if number in files:
            raise UsageError(f"{path}: category {number} is there twice; the other is {files[number]}")
        files[number] = path
    if not files:
        raise UsageError(f"{folder}: holds no category files; they are named {names}")
    num_categories = max(files) + 1 if count is None else count
    gap = next(number for number in range(len(files) + 1) if number not in files)
    if gap < min(num_categories, max(files)):
        missing = min(num_categories, max(files)) - sum(number < min(num_categories, max(files)) for number in files)
        more = f" and {missing - 1} more" if missing > 1 else ""
        raise UsageError(f"{folder}: {kind.file_name(gap)} is missing{more}; category numbers must have no gaps")
    if num_categories > len(files):
        raise UsageError(f"{folder}: holds {len(files)} categories, {num_categories} are asked for; lower --categories")
    return [files[number] for number in range(num_categories)]


def _csv_files(folder: Path) -> list[Path]:
    """All that end in .csv, however it is written, in a folder and those below it, links to folders included."""
    paths, seen = [], {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, followlinks=True):
        paths += [Path(where, name) for name in [*files, *folders] if name.lower().endswith(".csv")]
        folders[:] = [name for name in folders if os.path.realpath(Path(where, name)) not in seen]
        seen |= {os.path.realpath(Path(where, name)) for name in folders}
    return sorted(paths)


def _number(path: Path) -> int | None:
    """The number that names a category file, if it is one."""
    named = path.stem.isascii() and path.stem.isdecimal() and len(path.stem) < 10
    return int(path.stem) if named else None


def write_categories(categories: CategorySet[Any], folder: Path) -> None:
    """Write the published files to a folder, each whole or not at all; those that are there already are left.

    Raises UsageError, and writes nothing, where the folder holds another category of the same number or other files.
    """
    check_local(folder)
    files = dict(categories.files())
    check_category_folder(folder, type(categories), files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder) as alone:
            for path in folder.iterdir():  # left by a run that was killed
                is_old = alone or time.time() - path.stat().st_mtime > _OLD_SECONDS
                if _TEMPORARY.fullmatch(path.name) and is_old:
                    path.unlink(missing_ok=True)
            for name, data in files.items():
                if not (folder / name).exists():
                    path = folder / name
                    write_atomically(path, data, temporary=unique_temporary(path), error=UsageError)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Wait for other runs that write to a folder; yields whether that can be told, which some file systems cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def check_category_folder(folder: Path, kind: type[CategorySet[Any]], files: Mapping[str, bytes] | None = None) -> None:
    """Raises UsageError where category files of a kind cannot be written to a folder: it holds others, or is none.

    files: what is to be written, by name. What a run that was killed left half written is passed over.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; name a folder")
    for path in sorted(folder.iterdir()):
        if _TEMPORARY.fullmatch(path.name):
            continue
        if not path.is_file() or path.suffix != ".csv" or (number := _number(path)) is None:
            raise UsageError(f"{path}: is no category file; name a folder of its own")
        if path.name != (name := kind.file_name(number)):
            raise UsageError(f"{path}: is another category, or should be named {name}; name another folder")
        if files and path.read_bytes() != files.get(name, path.read_bytes()):
            raise UsageError(f"{path}: is another category; name another folder")
