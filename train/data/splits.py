"""Labelled data for fine-tuning and probing: its splits, as they lie there or held out.

WHERE/train/<class>/*.jpg beside val/ and/or test/      an image folder
WHERE/labels.csv, or a table itself                     image files with a row each, in splits by a column
WHERE by save_to_disk of Hugging Face datasets          a data set, or one a split
WHERE/train, WHERE/val, WHERE/test, or WHERE itself     folders of shards; WHERE may be a URL
"/d/train-{000..063}.tar"                               tars of another origin, by pattern
torch/cifar100, hfds/..., tfds/...                      timm's names

With a file of sample ids, that says which of them all are trained on, chosen on and reported on; then class folders
without train/ will do. A validation folder may also be called valid/ or validation/.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import AbsentError, UsageError
from fracgen.shards.files import check_local
from fracgen.shards.labels.image_sources import LabelledSet, open_labelled
from fracgen.shards.labels.imagefolder import SPLITS, find_splits, list_folders, split_roles
from fracgen.shards.labels.tables import Columns
from fracgen.shards.urls import is_url
from fracgen.train.data.examples import Examples, Progress
from fracgen.train.data.folders import examples_of
from fracgen.train.data.opening import (
    DEFAULT_COLUMNS,
    find_remote_splits,
    holds_classes,
    is_name,
    is_shards_folder,
    open_examples,
)
from fracgen.train.data.skipped import Skipped
from fracgen.train.data.split_checks import check_apart, check_classes, check_train, some
from fracgen.train.data.split_files import read_split_file
from fracgen.train.data.subsets import hold_out, take_per_class
from fracgen.train.data.tars import check_labels, is_pattern


@dataclass(frozen=True)
class Splits:
    """A labelled set. val: to choose on. test: to report on. skipped: samples of tars left out on opening.

    description: one line for the screen: which splits there are, and what was held out.
    """

    train: Examples
    val: Examples | None
    test: Examples | None
    description: str
    skipped: Skipped

    @property
    def cache_notes(self) -> dict[str, str]:
        """Of splits at URLs, a row for the screen: the cache, and what was fetched."""
        notes = [each.cache_note for each in (self.train, self.val, self.test) if each is not None and each.cache_note]
        return {"cache": "; ".join(dict.fromkeys(notes))} if notes else {}


def open_splits(
    data: str,
    *,
    test: str = "",
    val: str = "",
    num_classes: int = 0,
    root: str = "data",
    columns: Columns = DEFAULT_COLUMNS,
    val_share: float = 0.1,
    per_class: int = 0,
    seed: int = 0,
    split: str = "",
    skip_bad: bool = False,
    cache: CacheSettings | None = None,
    progress: Progress | None = None,
) -> Splits:
    """The splits of a labelled set, from what this module's docstring lists.

    With val/ alone (as ImageNet lies), accuracy is reported on it; beside test/ it is for choosing. A missing
    validation split is held out from train, class by class, by seed. No image is decoded.

    test, val: a folder of classes, a table, a folder of shards or a pattern, in the place of what lies there.
    num_classes: of tars without a manifest. root: where timm keeps sets that it gets by name. columns: of tables and
    saved data sets. val_share: of train, 0 to hold out none. per_class: 0, or images of each class of train that are
    taken, before any is held out; fewer are among more. split: a file of sample ids, which says all splits (see
    `split_files`). cache: of URLs.
    Raises UsageError for what is missing or not as above, classes that differ; DataError for damaged tars, and where
    the samples are no longer those of the file of ids.
    """
    if not 0 <= val_share < 1:
        raise UsageError(f"val share {val_share}: give 0 (none is held out) or more, below 1")
    if per_class < 0:
        raise UsageError(f"images per class {per_class}: give 1 or more, or 0 for all")
    if split and (val or test):
        raise UsageError(f"--split {split}: says what --val and --test would; leave these out")
    reader = _Reader(columns=columns, skip_bad=skip_bad, cache=cache, progress=progress)
    places, note = _find(data, root, reader, whole=bool(split))
    if split:
        unread: list[str] = []
        roles = read_split_file(Path(split)).select(_open_all(places, num_classes, reader))
        train, chosen, reported = roles["train"], roles.get("val"), roles.get("test")
    else:
        train, chosen, reported = _open_as_placed(places, num_classes, val, test, reader)
        read = [each.name for each in (train, chosen, reported) if each is not None]
        unread = _unread(Path(data), read)
    check_train(train)
    notes = [f"{note}{train.name}: {len(train):,} images of {len(train.class_names)} classes"]
    if per_class:
        train = take_per_class(train, per_class, seed=seed)
        notes.append(f"{len(train):,} taken, {per_class} of each class (seed {seed})")
    if chosen is None and val_share:
        train, chosen = hold_out(train, val_share, seed=seed)
        notes.append(f"{len(chosen):,} of them held out to choose on (seed {seed})")
    elif chosen is not None:
        notes.append(f"{len(chosen):,} to choose on ({chosen.name})")
    notes.append(f"{len(reported):,} to report on ({reported.name})" if reported else "none to report on")
    notes += [f"split by {split}"] if split else unread
    return Splits(train, chosen, reported, "; ".join(notes), reader.skipped)


def open_sources(
    data: str,
    *,
    num_classes: int = 0,
    root: str = "data",
    columns: Columns = DEFAULT_COLUMNS,
    skip_bad: bool = False,
    cache: CacheSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Examples]:
    """The splits of a labelled set as they lie, "train", "val" and "test": what a file of sample ids chooses from.

    A folder of classes without splits is "train". Arguments and errors are those of `open_splits`.
    """
    reader = _Reader(columns=columns, skip_bad=skip_bad, cache=cache, progress=progress)
    places, _ = _find(data, root, reader, whole=True)
    return _open_all(places, num_classes, reader)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """How splits are opened. skipped: what was left out so far."""

    columns: Columns
    skip_bad: bool
    cache: CacheSettings | None
    progress: Progress | None
    skipped: Skipped = field(default_factory=Skipped)

    def open(self, source: str | Examples, num_classes: int) -> Examples:
        """num_classes: of tars without a manifest; 0 where it is not known."""
        if isinstance(source, str):
            if not is_url(source) and not Path(source).exists() and not is_pattern(source):
                raise AbsentError(f"{source}: no such folder")
            in_tars = num_classes if is_pattern(source) and not Path(source).is_dir() else 0
            source = open_examples(
                source,
                num_classes=in_tars,
                columns=self.columns,
                skip_bad=self.skip_bad,
                cache=self.cache,
                progress=self.progress,
            )
        examples = check_labels(source, skip_bad=self.skip_bad, skipped=self.skipped, progress=self.progress)
        if not len(examples):
            raise UsageError(f"{examples.name}: no image in it that can be used")
        if examples.multi_label:
            raise UsageError(f"{examples.name}: its images have several labels, which only `fracgen pretrain` learns")
        return examples

    def open_train(self, source: str | Examples, num_classes: int) -> Examples:
        """The train split. Raises UsageError where it has another number of classes, if that is known."""
        if num_classes < 0:
            raise UsageError(f"classes {num_classes}: give 1 or more, or 0 for as many as there are")
        train = self.open(source, num_classes)
        if num_classes not in (0, len(train.class_names)):
            raise UsageError(f"--num-classes {num_classes}: {train.name} has {len(train.class_names)} classes")
        return train


def _open_all(places: Mapping[str, str | Examples], num_classes: int, reader: _Reader) -> dict[str, Examples]:
    train = reader.open_train(places["train"], num_classes)
    others = {role: place for role, place in places.items() if role != "train"}
    return {"train": train} | {
        role: check_classes(train, reader.open(place, len(train.class_names))) for role, place in others.items()
    }


def _open_as_placed(
    places: Mapping[str, str | Examples], num_classes: int, val: str, test: str, reader: _Reader
) -> tuple[Examples, Examples | None, Examples | None]:
    """(train, what is chosen on, what is reported on): as the splits lie, or at `val` and `test`."""
    train = reader.open_train(places["train"], num_classes)
    check_train(train)
    val_place: str | Examples | None = val or None
    test_place: str | Examples | None = test or places.get("test")
    if "val" in places and not (isinstance(places["val"], str) and val and Path(val) == Path(places["val"])):
        test_place, val_place = (test_place, val or places["val"]) if test_place else (places["val"], val_place)
    check_apart(places["train"], val_place, test_place)

    def open_other(place: str | Examples | None) -> Examples | None:
        return None if place is None else check_classes(train, reader.open(place, len(train.class_names)))

    reported = open_other(test_place)
    return train, open_other(val_place), reported


def _find(data: str, root: str, reader: _Reader, *, whole: bool) -> tuple[Mapping[str, str | Examples], str]:
    """(where the splits lie, a note for the screen). whole: a folder of classes without splits will do."""
    check_local(root)
    if is_url(data):
        return find_remote_splits(data), ""
    folder = Path(data)
    note = f"{data}: a local folder is taken; " if is_name(data) and folder.exists() else ""
    if is_name(data) and not folder.exists():
        from fracgen.train.data.catalog import open_named

        return open_named(data, root, reader.progress), ""
    if not is_shards_folder(folder) and (labelled := open_labelled(folder, reader.columns)) is not None:
        return _open_labelled(data, labelled, note)
    if not folder.is_dir():
        if is_pattern(data):
            return {"train": data}, note
        from fracgen.train.data.catalog import nearest_name

        hint = nearest_name(data) or ", as torch/cifar100"
        raise AbsentError(f"{data}: no such folder, nor a name that timm knows{hint}")
    if is_shards_folder(folder):
        return {"train": data}, note
    places = find_splits(folder)
    if whole and not places and holds_classes(folder):
        return {"train": data}, note
    if "train" not in places:
        if any(folder.name in names for names in SPLITS.values()) and holds_classes(folder):
            raise UsageError(f"{data}: no train/ in it, but classes: it is a split itself; give {folder.parent}")
        raise UsageError(
            f"{data}: no train/ in it; its images are to lie in {folder / 'train'}/<class>/, or in shards, "
            "or to have labels in a table"
        )
    return {split: str(path) for split, path in places.items()}, note


def _open_labelled(data: str, labelled: LabelledSet, note: str) -> tuple[Mapping[str, str | Examples], str]:
    """The splits of a table or a saved data set; a split without labels counts for none."""
    if not labelled.split_names:
        return {"train": data}, note
    roles = split_roles(labelled.split_names, Path(data))
    if "train" not in roles:
        raise UsageError(f"{data}: no split train in it; there are {some([*labelled.split_names])}")
    roles = {role: name for role, name in roles.items() if labelled.is_labelled(name)}
    unread = [name for name in labelled.split_names if name not in roles.values()]
    note += f"not read: split {some(unread)}; " if unread else ""
    return {role: examples_of(labelled.images(name), f"{data}, split {name}") for role, name in roles.items()}, note


def _unread(folder: Path, read: list[str]) -> list[str]:
    """A note of the folders of classes beside train/ that are no split by their names, where there are any."""
    if not find_splits(folder):
        return []
    paths = set(map(os.path.realpath, read))
    others = [folder / name for name in list_folders(folder) if os.path.realpath(folder / name) not in paths]
    names = [path.name for path in others if holds_classes(path) or is_shards_folder(path)]
    return [f"not read: {some(names)} (give it as --val or --test, if it is one)"] if names else []
