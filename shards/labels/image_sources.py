"""What labels the images at a path: class folders, a table, or a data set that Hugging Face datasets saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fracgen.shards.errors import UsageError
from fracgen.shards.labels.imagefolder import find_split, list_folders, list_images
from fracgen.shards.labels.labelled_images import EXTENSIONS, LabelledImages
from fracgen.shards.labels.tables import SUFFIXES, Columns, has_labels, is_table

TABLE_NAMES = ("labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Hugging Face's ImageFolder has these; where one says no labels, folders beside it are classes as ever."""


class LabelledSet(Protocol):
    """Images and what labels them, in splits or not. split_names: empty where there are none."""

    split_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def is_labelled(self, split: str) -> bool:
        """Whether any image of a split has a label."""

    def images(self, split: str | None = None, extensions: Mapping[str, str] = EXTENSIONS) -> LabelledImages:
        """The images of a split; all of them, where there are no splits."""


def open_labelled(path: Path, columns: Columns) -> LabelledSet | None:
    """What labels the images at `path`, if it is a table, a folder with one in it, or a saved data set; else None.

    Raises UsageError for a folder with two tables, and what `ImageTable` and `SavedDataset` raise.
    """
    from fracgen.shards.labels.image_tables import ImageTable
    from fracgen.shards.labels.saved_datasets import SavedDataset, is_saved_dataset

    if path.is_dir():
        if is_saved_dataset(path):
            return SavedDataset(path, columns)
        table = _table_in(path, columns)
        return None if table is None else ImageTable(table, columns)
    return ImageTable(path, columns) if is_table(path) else None


def open_images(
    path: Path, splits: Sequence[str | None], columns: Columns, extensions: Mapping[str, str] = EXTENSIONS
) -> dict[str | None, LabelledImages]:
    """The images at `path` by split; None stands for all of a path without splits.

    Raises UsageError for splits that are not there, or that none is named of; see also `list_images`, `open_labelled`.
    """
    if path.exists() and not path.is_dir() and not is_table(path):
        raise UsageError(f"{path}: neither a folder nor a table ({', '.join(SUFFIXES)})")
    labelled = open_labelled(path, columns)
    images = dict[str | None, LabelledImages]()
    for split in splits:
        if labelled is not None:
            images[split] = labelled.images(split, extensions)
            continue
        folder = find_split(path, split)
        inner = open_labelled(folder, columns) if folder != path else None
        images[split] = (
            inner.images(None, extensions) if inner else list_images(folder, split=split, extensions=extensions)
        )
    return images


def _table_in(folder: Path, columns: Columns) -> Path | None:
    """The table of a folder, by its name; None where there is none, or only one without labels beside class folders."""
    tables = [folder / name for name in (*TABLE_NAMES, *METADATA_NAMES) if (folder / name).is_file()]
    if len(tables) > 1:
        raise UsageError(f"{folder}: holds {' and '.join(path.name for path in tables)}; give the one that is meant")
    if not tables:
        return None
    (table,) = tables
    if table.name in METADATA_NAMES and list_folders(folder) and not has_labels(table, columns):
        return None
    return table
