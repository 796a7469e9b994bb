"""Folders that Hugging Face datasets' `save_to_disk` wrote: their encoded images and labels, as folders' are listed.

Read by `datasets.load_from_disk` alone, after a look at its JSON files: names in them that lead out of the folder are
refused. Nothing in such a folder is run: features are looked up by name among the library's own, a saved format is
dropped, and images are taken as the bytes that they are; one that is only a path or a URL is refused, not fetched.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import read_json
from fracgen.shards.labels.imagefolder import match_split
from fracgen.shards.labels.labelled_images import EXTENSIONS, Numbers, check_class_names
from fracgen.shards.labels.saved_features import choose_features, number_classes
from fracgen.shards.labels.tables import Columns, plain_values

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_ROWS_AT_ONCE = 10_000
_SNIFFED = 1000
"""Images at most by whose first bytes the extension of members is chosen, evenly spaced."""
_SIGNATURES = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"BM", "bmp"))


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, of one data set or of one a split."""
    return (folder / _DICT).is_file() or ((folder / _STATE).is_file() and (folder / _INFO).is_file())


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedImages:
    """The images of one split, class by class, in each by row.

    dataset: gives rows of the images' column, as arrow. rows: (N,) int64, of each image. The others are
    `LabelledImages`'.
    """

    root: Path
    split: str
    dataset: Any
    rows: Numbers
    class_names: tuple[str, ...]
    starts: tuple[int, ...]
    sizes: Numbers
    extension: str
    sha256: str
    others: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """As in "train/row 7"."""
        return f"{self.split}/row {self.rows[index]}" if self.split else f"row {self.rows[index]}"

    def label(self, index: int) -> int:
        """The position of the image's class."""
        return bisect_right(self.starts, index) - 1

    @property
    def labels(self) -> Numbers:
        """The position of each image's class, (N,) int64."""
        return np.repeat(np.arange(len(self.starts)), np.diff((*self.starts, len(self))))

    def read(self, index: int) -> bytes:
        """An image as it was encoded. Raises OSError where the file is no longer what it was."""
        from pyarrow import ArrowException

        try:
            data: bytes = self.dataset[int(self.rows[index])].column(0)[0].as_py()["bytes"]
        except ArrowException as error:
            raise OSError(0, " ".join(str(error).split())[:200]) from error
        return data

    def describe(self, index: int) -> str:
        """As in "my-set/train/row 7"."""
        return f"{self.root}/{self.name(index)}"

    def passed_over(self) -> list[str]:
        """What is worth a word."""
        return list(self.notes)


class SavedDataset:
    """A folder of `save_to_disk`. split_names: of a DatasetDict; empty for one data set.

    class_names: the ClassLabel's, or of all splits together, as `number_labels` orders them.
    Raises UsageError where there is no feature of images or labels, or one of another task; DataError where it is
    damaged.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.root = path
        _check_names(path)
        datasets = _load(path)
        self.split_names = tuple(datasets) if (path / _DICT).is_file() else ()
        features = next(iter(datasets.values())).features
        if any(each.features != features for each in datasets.values()):
            raise UsageError(f"{path}: its splits have different features")
        self._image, label = choose_features(features, columns, str(path))
        self._unread = [name for name in features if name not in (self._image, label)]
        self._images = {
            name: each.cast_column(self._image, _encoded()).with_format("arrow", columns=[self._image])
            for name, each in datasets.items()
        }
        values = {name: _column(each.with_format("arrow", columns=[label]), path) for name, each in datasets.items()}
        self.class_names, self._labels, self._notes = number_classes(values, features[label], path)
        check_class_names(path, self.class_names)

    def images(self, split: str | None = None, extensions: Mapping[str, str] = EXTENSIONS) -> SavedImages:
        """The images of a split, class by class; of the only set, where there are no splits.

        Raises UsageError where there are splits and none is named, or not this one, where images are not in the folder,
        and for rows without a label.
        """
        name = match_split(split, self.split_names, self.root) if split is not None or self.split_names else ""
        dataset, labels = self._images[name], self._labels[name]
        place = f"{self.root}, split {name}" if name else str(self.root)
        if not len(labels):
            raise UsageError(f"{place}: no rows in it")
        if unlabelled := int((labels < 0).sum()):
            raise UsageError(f"{place}: {unlabelled:,} of {len(labels):,} rows have no label")
        sizes, paths = _sizes(dataset, place)
        others, rows = Counter[str](), np.argsort(labels, kind="stable")
        kinds = self._sniff(dataset, rows)
        if (name_of_kind := max(sorted(kinds), key=kinds.__getitem__)) not in extensions.values():
            raise UsageError(f"{place}: its images are {name_of_kind}, which webdataset does not decode; convert them")
        digest = hashlib.sha256(repr(self.class_names).encode())
        digest.update(labels.astype("<i8").tobytes() + sizes.astype("<i8").tobytes())
        digest.update("\0".join(paths).encode("utf-8", "surrogateescape"))
        counts = np.bincount(labels, minlength=len(self.class_names))
        unread = [f"features not read: {', '.join(map(repr, self._unread[:8]))}"] if self._unread else []
        return SavedImages(
            root=self.root,
            split=name,
            dataset=dataset,
            rows=rows.astype(np.int64),
            class_names=self.class_names,
            starts=tuple((np.cumsum(counts) - counts).tolist()),
            sizes=sizes[rows],
            extension=name_of_kind,
            sha256=digest.hexdigest(),
            others=dict(others),
            notes=(*self._notes, *unread),
        )

    def is_labelled(self, split: str) -> bool:
        """Whether any row of a split has a label: test splits of competitions have none."""
        return bool((self._labels[split] >= 0).any())

    def _sniff(self, dataset: Any, rows: Numbers) -> Counter[str]:
        kinds = Counter[str]()
        for row in rows[np.arange(min(_SNIFFED, len(rows))) * len(rows) // min(_SNIFFED, len(rows))]:
            start = dataset[int(row)].column(0)[0].as_py()["bytes"][:4]
            kinds[next((kind for magic, kind in _SIGNATURES if start.startswith(magic)), "png")] += 1
        return kinds


def _check_names(path: Path) -> None:
    """Raises DataError for names of files or splits that are no plain names: they are joined to the folder's path.

    Raises UsageError for a set without rows, of which datasets saves no file and then cannot open the folder.
    """
    names: Any
    folders = [path]
    if (path / _DICT).is_file():
        names = read_json(path / _DICT).get("splits")
        if not isinstance(names, list) or not all(map(_is_plain, names)) or not names:
            raise DataError(f"{path / _DICT}: its splits are no plain names")
        folders = [path / name for name in names]
    for folder in folders:
        files = read_json(folder / _STATE).get("_data_files")
        names = [each.get("filename") if isinstance(each, dict) else None for each in files or []]
        if files == []:
            raise UsageError(f"{folder}: no rows in it")
        if not isinstance(files, list) or not all(map(_is_plain, names)):
            raise DataError(f"{folder / _STATE}: its data files are no plain names")


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _load(path: Path) -> dict[str, Any]:
    """The data sets by split; by "" where there are no splits. A saved format (of torch, say) is dropped."""
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{path}: needs Hugging Face datasets: pip install 'fracgen[datasets]'") from None
    try:
        loaded = datasets.load_from_disk(str(path.absolute()))
    except MemoryError:
        raise
    except Exception as error:  # of pyarrow, json or datasets, for bytes that may be anything
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be opened by datasets.load_from_disk ({words})") from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}


def _encoded() -> Any:
    from datasets import Image

    return Image(decode=False)


def _batches(dataset: Any, path: Any) -> Iterator[Any]:
    """The only column of a data set, part by part, checked: of damaged offsets arrow would read anywhere."""
    from pyarrow import ArrowException

    for start in range(0, len(dataset), _ROWS_AT_ONCE):
        try:
            column = dataset[start : start + _ROWS_AT_ONCE].column(0).combine_chunks()
            column.validate(full=True)
        except ArrowException as error:
            raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from None
        yield column


def _column(dataset: Any, path: Path) -> list[Any]:
    return [value for column in _batches(dataset, path) for value in plain_values(column, str(path))]


def _sizes(dataset: Any, place: str) -> tuple[Numbers, list[str]]:
    """(sizes of the images in bytes, (N,) int64; what the data set has for their paths)."""
    import pyarrow.compute

    sizes, paths = list[Numbers](), list[str]()
    for column in _batches(dataset, place):
        lengths = pyarrow.compute.binary_length(pyarrow.compute.struct_field(column, "bytes"))
        sizes.append(lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        paths += [path or "" for path in pyarrow.compute.struct_field(column, "path").to_pylist()]
    whole: Numbers = np.concatenate(sizes)
    if empty := int((whole == 0).sum()):
        raise UsageError(
            f"{place}: {empty:,} of {len(whole):,} images are not in the folder but a path or nothing; "
            "save_to_disk of a newer datasets puts them in"
        )
    return whole, paths
