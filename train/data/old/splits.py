"""Labelled data for fine-tuning and probing: its splits, found or carved.

WHERE/train/<class>/*.jpg beside val/ and/or test/      an image folder
WHERE/train, WHERE/val, WHERE/test, or WHERE itself     folders of shards
"/d/train-{000..063}.tar"                               tars of another origin, by pattern
torch/cifar100, hfds/..., tfds/...                      timm's names
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.manifest import MANIFEST, PARTIAL
from fracgen.train.data.old.catalog import is_name, open_named
from fracgen.train.data.old.examplefeed import ExampleFeed, clean_batches
from fracgen.train.data.old.examples import Examples, Indices, numbered, open_folder, open_tars
from fracgen.train.data.old.in_memory import Held, Needed, hold, needed
from fracgen.train.data.old.samples import Skipped
from fracgen.train.data.old.source import Progress
from fracgen.train.seeding import generator

__all__ = [
    "ExampleFeed",
    "Examples",
    "Held",
    "Needed",
    "Splits",
    "clean_batches",
    "hold",
    "needed",
    "open_splits",
]

_PER_CLASS, _CARVE = 0, 1
"""What the draws of `generator(seed, "split", ...)` are for."""


@dataclass(frozen=True)
class Splits:
    """A labelled set. val: to choose on. test: to report on. skipped: samples of tars left out on opening, by reason.

    description: one line for the screen: what was found, what was carved.
    """

    train: Examples
    val: Examples | None
    test: Examples | None
    description: str
    skipped: Counter[str]


@dataclass(frozen=True)
class _Opener:
    """How one split is opened, from its place. num_classes: of tars without a manifest; 0 where it is not known."""

    num_classes: int
    skip_bad: bool
    skipped: Skipped
    progress: Progress | None

    def open(self, where: str | Examples) -> Examples:
        """Raises UsageError for what is missing or holds nothing."""
        if isinstance(where, Examples):
            found = where
        elif _holds_classes(Path(where)):
            found = open_folder(Path(where))
        elif Path(where).is_dir() or _is_pattern(where):
            found = open_tars(
                where,
                num_classes=0 if Path(where).is_dir() else self.num_classes,
                skip_bad=self.skip_bad,
                skipped=self.skipped,
                progress=self.progress,
            )
        else:
            raise UsageError(f"{where}: no such folder")
        if not len(found):
            raise UsageError(f"{found.name}: nothing in it")
        return found


def open_splits(
    data: str,
    *,
    test: str = "",
    val: str = "",
    num_classes: int = 0,
    root: str = "data",
    val_share: float = 0.1,
    per_class: int = 0,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Splits:
    """The splits of a labelled set, from what this module's docstring lists.

    Where there is val/ alone (as ImageNet lies), it is what is reported on; beside test/ it is chosen on. A missing
    validation split is carved from train, class by class, by seed. No picture is decoded.

    test, val: a folder of classes, a folder of shards or a pattern, instead of what is found. num_classes: of tars
    without a manifest. root: where timm keeps sets that it gets by name. val_share: of train, 0 to carve none.
    per_class: 0, or images of each class of train that are taken, before any is carved; fewer are among more.
    Raises UsageError for what is missing or not as above, classes that differ, DataError for damaged tars.
    """
    if not 0 <= val_share < 1:
        raise UsageError(f"val share {val_share}: give 0 (none is carved) or more, below 1")
    if per_class < 0 or num_classes < 0:
        raise UsageError(f"images per class {per_class}, classes {num_classes}: give 1 or more, or 0 for all")
    opener = _Opener(num_classes, skip_bad, Skipped(), progress)
    found = open_named(data, root) if is_name(data) and not Path(data).exists() else _find(data)
    train = opener.open(found["train"])
    if num_classes not in (0, len(train.class_names)):
        raise UsageError(f"--num-classes {num_classes}: {train.name} has {len(train.class_names)} classes")
    _check_train(train)
    beside = _Opener(len(train.class_names), skip_bad, opener.skipped, progress)
    val_place: str | Examples | None = val or None
    test_place: str | Examples | None = test or found.get("test")
    if "val" in found and not (isinstance(found["val"], str) and val and Path(val) == Path(found["val"])):
        test_place, val_place = (test_place, val or found["val"]) if test_place else (found["val"], val_place)
    reported = None if test_place is None else _open_beside(train, test_place, beside)
    chosen = None if val_place is None else _open_beside(train, val_place, beside)
    notes = [f"{train.name}: {len(train):,} images of {len(train.class_names)} classes"]
    if per_class:
        train = _few(train, per_class, seed)
        notes.append(f"{len(train):,} taken, {per_class} of each class (seed {seed})")
    if chosen is None and val_share:
        train, chosen = _carve(train, val_share, seed)
        notes.append(f"{len(chosen):,} of them carved to choose on (seed {seed})")
    elif chosen is not None:
        notes.append(f"{len(chosen):,} to choose on ({chosen.name})")
    notes.append(f"{len(reported):,} to report on ({reported.name})" if reported else "none to report on")
    return Splits(train, chosen, reported, "; ".join(notes), opener.skipped.counts)


def _find(data: str) -> dict[str, str]:
    """Where the splits of a folder or pattern lie."""
    folder = Path(data)
    if not folder.is_dir():
        if _is_pattern(data):
            return {"train": data}
        raise UsageError(f"{data}: no such folder, nor a name that timm knows, as torch/cifar100")
    if (folder / MANIFEST).exists() or (folder / PARTIAL).exists():
        return {"train": data}
    if not (folder / "train").is_dir():
        if folder.name in ("train", "val", "test") and _holds_classes(folder):
            raise UsageError(f"{data}: no train/ in it, but classes: it is a split itself; give {folder.parent}")
        raise UsageError(f"{data}: no train/ in it; its images are to lie in {folder / 'train'}/<class>/, or in shards")
    return {role: str(folder / role) for role in ("train", "val", "test") if (folder / role).is_dir()}


def _is_pattern(where: str) -> bool:
    return bool(set(where) & set("{}*?[")) or where.endswith(".tar") or ":" in where


def _holds_classes(folder: Path) -> bool:
    """Whether a folder is read as one of classes: it is none of shards, nor of tars alone."""
    if not folder.is_dir() or (folder / MANIFEST).exists() or (folder / PARTIAL).exists():
        return False
    return any(each.is_dir() and not each.name.startswith(".") for each in folder.iterdir()) or not any(
        folder.glob("*.tar")
    )


def _check_train(train: Examples) -> None:
    if len(train.class_names) < 2:
        raise UsageError(f"{train.name}: only one class, {train.class_names[0]!r}; two or more can be told apart")
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    if not counts.all():
        name = train.class_names[int(np.argmin(counts))]
        raise UsageError(f"{train.name}: class {name!r} without images")


def _open_beside(train: Examples, where: str | Examples, opener: _Opener) -> Examples:
    """A split beside train, of the same classes by name and number."""
    other = opener.open(where)
    ours, theirs = train.class_names, other.class_names
    if ours == theirs or (len(ours) == len(theirs) and numbered(len(ours)) in (ours, theirs)):
        return other
    if set(ours) == set(theirs):
        raise UsageError(f"{other.name}: the classes of {train.name}, but in another order")
    words = [
        f"{word} {_some(names)}"
        for word, names in (("lacks", sorted({*ours} - {*theirs})), ("has also", sorted({*theirs} - {*ours})))
        if names
    ]
    raise UsageError(f"{other.name}: not the classes of {train.name}: {', '.join(words)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _shuffled(examples: Examples, seed: int, purpose: int) -> list[Indices]:
    """The numbers of each class, in an order that depends on seed, purpose, class and their count alone."""
    order = np.argsort(examples.labels, kind="stable")
    ends = np.cumsum(np.bincount(examples.labels, minlength=len(examples.class_names)))
    members = np.split(order, ends[:-1])
    return [generator(seed, "split", purpose, label).permutation(mine) for label, mine in enumerate(members)]


def _few(train: Examples, per_class: int, seed: int) -> Examples:
    shuffled = _shuffled(train, seed, _PER_CLASS)
    for name, numbers in zip(train.class_names, shuffled, strict=True):
        if len(numbers) < per_class:
            raise UsageError(f"{per_class} images per class: class {name!r} of {train.name} has {len(numbers)}")
    return train.take(np.sort(np.concatenate([numbers[:per_class] for numbers in shuffled])))


def _carve(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """(what is left, what is carved): of each class its share, rounded, 1 at least, but never its last image."""
    parts = [
        numbers[: min(max(1, round(share * len(numbers))), len(numbers) - 1)]
        for numbers in _shuffled(train, seed, _CARVE)
    ]
    carved = np.sort(np.concatenate(parts))
    if not len(carved):
        raise UsageError(
            f"{train.name}: one image of each class, so none to choose on; give a validation split, or its share as 0"
        )
    return train.take(np.setdiff1d(np.arange(len(train)), carved)), train.take(carved)
