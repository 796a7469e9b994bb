"""A table and the image files that it names: checked, split by split, as the same listing that class folders give."""

import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fracgen.shards.errors import UsageError
from fracgen.shards.labels.class_labels import number_labels
from fracgen.shards.labels.imagefolder import match_split
from fracgen.shards.labels.labelled_images import EXTENSIONS, ImageFolder, build_folder, check_class_names, suffix_of
from fracgen.shards.labels.tables import Columns, Table, read_table
from fracgen.shards.urls import is_url

_SHOWN = 3
_MOST_SPLITS = 50


class ImageTable:
    """A table of images and labels, whose files lie in or below its folder.

    class_names: of all its splits together, so that a label means the same in each. split_names: in the order of the
    table; empty where it has no column of splits.
    Raises UsageError for what is no such table: see `read_table`, `number_labels`; for files outside of the folder,
    and files that come again with another label or split.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path, self.root = path, path.parent
        self._table = table = read_table(path, columns)
        self._files = _relative_names(table)
        self.split_names, self._splits = _splits(table)
        self.class_names, self._labels, label_notes = number_labels(
            table.labels, source=str(path), describe=table.describe, is_text=table.is_text
        )
        check_class_names(path, self.class_names)
        self._rows, num_repeated = self._distinct_rows()
        self._notes = [*label_notes]
        if num_repeated:
            self._notes.append(f"{num_repeated:,} rows repeat another one, with the same label: counted once")
        if table.unread:
            self._notes.append(f"columns not read: {', '.join(map(repr, table.unread[:8]))}")

    def images(self, split: str | None = None, extensions: Mapping[str, str] = EXTENSIONS) -> ImageFolder:
        """The images of a split, or all of a table without splits, class by class, in each by path.

        Raises UsageError where the table has splits and none is named, or not this one; where files are missing, and
        where no file is an image by its extension.
        """
        name = match_split(split, self.split_names, self.path) if split is not None or self.split_names else None
        files_of_class: list[list[tuple[str, int]]] = [[] for _ in self.class_names]
        others, missing = Counter[str](), list[int]()
        for row in self._rows:
            if name is not None and self._splits[row] != name:
                continue
            if suffix_of(self._files[row]) not in extensions:
                others[suffix_of(self._files[row]) or "no extension"] += 1
            elif (size := _size(self.root / self._files[row])) is None:
                missing.append(row)
            else:
                files_of_class[self._labels[row]].append((self._files[row], size))
        if missing:
            self._refuse(missing, "name no file there", "; paths are relative to the table's folder")
        if not any(files_of_class):
            kinds = ", ".join(others)
            raise UsageError(
                f"{self.path}: no file in it is an image by its extension ({kinds}; {', '.join(extensions)} are)"
            )
        empty = [each for each, files in zip(self.class_names, files_of_class, strict=True) if not files]
        notes = [*self._notes, *([f"no image of {len(empty)} classes ({', '.join(empty[:_SHOWN])})"] if empty else [])]
        classes = [(each, sorted(files)) for each, files in zip(self.class_names, files_of_class, strict=True)]
        return build_folder(self.root, classes, others=others, extensions=extensions, table=True, notes=notes)

    def is_labelled(self, split: str) -> bool:
        """Always: a table has no rows without a label."""
        return split in self.split_names

    def _distinct_rows(self) -> tuple[list[int], int]:
        """(rows of different files, number of rows that repeat one of them)."""
        first_row: dict[str, int] = {}
        contrary = list[int]()
        for row, name in enumerate(self._files):
            first = first_row.setdefault(name, row)
            if self._labels[first] != self._labels[row] or self._splits[first] != self._splits[row]:
                contrary.append(row)
        if contrary:
            self._refuse(contrary, "have a file that is there before, with another label or split")
        return list(first_row.values()), len(self._files) - len(first_row)

    def _refuse(self, rows: Sequence[int], words: str, mend: str = "") -> None:
        raise UsageError(f"{self.path}: {_counted(self._table, rows)} {words} ({_first(self._table, rows)}){mend}")


def _relative_names(table: Table) -> list[str]:
    """The files of a table below its folder, parts divided by "/". Raises UsageError for what lies elsewhere."""
    names, outside, empty = list[str](), list[int](), list[int]()
    for row, value in enumerate(table.files):
        text = value.replace("\\", "/") if isinstance(value, str) else ""
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if not parts:
            empty.append(row)
        elif is_url(text) or text.startswith("/") or re.match("[A-Za-z]:", text) or ".." in parts or "\0" in text:
            outside.append(row)
        names.append("/".join(parts))
    if empty:
        raise UsageError(f"{table.path}: {_counted(table, empty)} have no file ({_first(table, empty)})")
    if outside:
        raise UsageError(
            f"{table.path}: {_counted(table, outside)} name a file outside of the table's folder "
            f"({_first(table, outside)}); paths are relative to it, without .."
        )
    return names


def _splits(table: Table) -> tuple[tuple[str, ...], Sequence[str]]:
    """(the splits' names in order, the split of each row). Raises UsageError for rows without a split."""
    if table.splits is None:
        return (), [""] * len(table.files)
    splits = ["" if value is None else str(value).strip() for value in table.splits]
    if empty := [row for row, split in enumerate(splits) if not split]:
        raise UsageError(f"{table.path}: {_counted(table, empty)} have no split ({_first(table, empty)})")
    names = tuple(dict.fromkeys(splits))
    if len(names) > _MOST_SPLITS:
        raise UsageError(f"{table.path}: {len(names):,} different splits; name another column by --split-column")
    return names, splits


def _size(path: Path) -> int | None:
    """Of a plain file, in bytes; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _counted(table: Table, rows: Sequence[int]) -> str:
    return f"{len(rows):,} of {len(table.files):,} rows"


def _first(table: Table, rows: Sequence[int]) -> str:
    return "; ".join(table.describe(row) for row in rows[:_SHOWN]) + ("; ..." if len(rows) > _SHOWN else "")
