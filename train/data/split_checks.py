"""Checks of a set's splits: that they have the same classes, that none is empty, that they lie apart."""

import os
import unicodedata

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.urls import is_url
from fracgen.train.data.examples import Examples, numbered


def check_apart(train: str | Examples, val: str | Examples | None, test: str | Examples | None) -> None:
    """Raises UsageError where two splits are one folder or file: accuracy on it would be none on new images."""
    paths = {
        option: each if is_url(each) else os.path.realpath(each)
        for option, each in (("train", train), ("--val", val), ("--test", test))
        if isinstance(each, str)
    }
    for option in ("--val", "--test"):
        if option in paths and paths[option] == paths.get("train"):
            raise UsageError(
                f"{option} {paths[option]}: the images that are trained on; give others, or leave the option away"
            )
    if "--val" in paths and paths["--val"] == paths.get("--test"):
        raise UsageError(
            f"--val {val}: the images that accuracy is reported on too; leave the option away to hold some out from "
            "train, or choose on the test images by --protocol published"
        )


def check_train(train: Examples) -> None:
    """Raises UsageError for a single class, and for one without images."""
    if len(train.class_names) < 2:
        raise UsageError(f"{train.name}: only one class, {train.class_names[0]!r}; two or more can be told apart")
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    if not counts.all():
        name = train.class_names[int(np.argmin(counts))]
        raise UsageError(f"{train.name}: class {name!r} without images")


def check_classes(train: Examples, other: Examples) -> Examples:
    """The other split, of the same classes by name and number. Raises UsageError where its classes are others."""
    ours, theirs = train.class_names, other.class_names
    if ours == theirs or (len(ours) == len(theirs) and numbered(len(ours)) in (ours, theirs)):
        return other
    if set(ours) == set(theirs):
        raise UsageError(f"{other.name}: the classes of {train.name}, but in another order")
    if sorted(map(_to_nfc, ours)) == sorted(map(_to_nfc, theirs)):
        name = next(name for name in theirs if name not in ours)
        raise UsageError(
            f"{other.name}: the classes of {train.name}, but {name!r} and others are written in another Unicode form "
            "(NFC and NFD; macOS writes accents as letters of their own); rename those of one split"
        )
    words = [
        f"{word} {some(names)}"
        for word, names in (("lacks", sorted({*ours} - {*theirs})), ("has also", sorted({*theirs} - {*ours})))
        if names
    ]
    raise UsageError(f"{other.name}: not the classes of {train.name}: {', '.join(words)}")


def _to_nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
