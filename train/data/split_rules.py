"""Rules by which the splits of a set are made, as sample ids: as they lie, slices, drawn class by class, or a file.

{}                                                          as they lie
{train: "train[:800]", val: "train[45000:45200]", test: test}    slices, as of TensorFlow Datasets
{pool: train + val + test, train: 6552, test: 818}          so many images, drawn class by class
split.json                                                  a file of sample ids
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import nearest
from fracgen.train.data.examples import Indices
from fracgen.train.data.split_files import ROLES, Ids, Sources, read_split_file, sample_ids
from fracgen.train.data.subsets import stratified_subset

_KEYS = (*ROLES, "pool", "seed")
_SLICE = re.compile(r"(train|val|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")
_DRAWN = 10
"""Purpose of the draws of the first role; `stratified_subset` tells them by it."""


def check_rule(rule: str | Mapping[str, Any]) -> None:
    """Raises UsageError for what is no rule, before any image is looked at."""
    if isinstance(rule, str):
        return
    for key, value in rule.items():
        if key not in _KEYS:
            raise UsageError(f"unknown key {key!r}{nearest(str(key), _KEYS)}; there are {', '.join(_KEYS)}")
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if key == "seed":
            if not is_number or value < 0:
                raise UsageError(f"seed {value!r}: must be a whole number of 0 or more")
        elif isinstance(value, str):
            _parse(value)
        elif key == "pool" or not is_number or value < 1:
            raise UsageError(f"{key} {value!r}: must be {'' if key == 'pool' else 'a number of images, or '}{_EXAMPLE}")
    if rule and "train" not in rule:
        raise UsageError("train: is missing; give a number of images, or slices")


_EXAMPLE = "slices, as train[:800] or train + val"


def apply_rule(rule: str | Mapping[str, Any], sources: Sources) -> dict[str, list[str]]:
    """Sample ids of each role. With val alone, as ImageNet lies, that is the test split.

    Raises UsageError for a split that is not there, too few images to draw, and slices that take whole classes: those
    of a folder, whose images are in the order of the classes.
    """
    if isinstance(rule, str):
        return {role: list(ids) for role, ids in read_split_file(Path(rule)).ids.items()}
    names = sample_ids(sources)
    if not rule:
        places = {"train": "train", "val": "val", "test": "test"}
        if "test" not in sources:
            places = {"train": "train", "test": "val"}
        return {role: names[split] for role, split in places.items() if split in sources}
    ids, pool = dict[str, list[str]](), _Pool(str(rule.get("pool", "train")), sources, names)
    for number, role in enumerate(ROLES):
        value = rule.get(role)
        if isinstance(value, int):
            ids[role] = pool.draw(value, seed=rule.get("seed", 0), purpose=_DRAWN + number)
        elif value is not None:
            ids[role] = _slices(value, sources, names)
    return ids


def train_on_both(ids: Ids) -> dict[str, list[str]]:
    """The same with the validation images among those that are trained on."""
    return {"train": [*ids["train"], *ids.get("val", ())], "test": list(ids.get("test", ()))}


class _Pool:
    """The images of some slices, of which none is drawn twice."""

    def __init__(self, text: str, sources: Sources, names: Mapping[str, list[str]]) -> None:
        self._text = text
        self._ids = np.array(_slices(text, sources, names), dtype=object)
        label_of = {
            name: label
            for split, examples in sources.items()
            for name, label in zip(names[split], examples.labels.tolist(), strict=True)
        }
        self._labels: Indices = np.array([label_of[name] for name in self._ids], np.int64)

    def draw(self, num: int, *, seed: int, purpose: int) -> list[str]:
        if num > len(self._ids):
            raise UsageError(f"{num:,} images: {self._text} has {len(self._ids):,} left to draw from")
        chosen = stratified_subset(self._labels, num, seed=seed, purpose=purpose)
        ids: list[str] = self._ids[chosen].tolist()
        rest = np.setdiff1d(np.arange(len(self._ids)), chosen)
        self._ids, self._labels = self._ids[rest], self._labels[rest]
        return ids


def _parse(text: str) -> list[tuple[str, str, str]]:
    """(split, begin, end) of each slice; begin and end are "" where they are left out."""
    parts = list[tuple[str, str, str]]()
    for word in text.split("+"):
        match = _SLICE.fullmatch(word.strip())
        if match is None:
            raise UsageError(f"{text!r}: must be {_EXAMPLE}, of train, val and test")
        split, begin, end = match.groups(default="")
        parts.append((split, begin, end))
    return parts


def _slices(text: str, sources: Sources, names: Mapping[str, list[str]]) -> list[str]:
    ids = list[str]()
    for split, begin, end in _parse(text):
        if split not in sources:
            raise UsageError(f"{text!r}: there is no split {split}; there are {', '.join(sources)}")
        labels = sources[split].labels
        if (begin or end) and len(labels) > 1 and (np.diff(labels) >= 0).all():
            raise UsageError(
                f"{text!r}: the images of {sources[split].name} are in the order of their classes, so that a slice "
                "would lack some; give a number of images, which are drawn class by class"
            )
        ids += names[split][slice(_place(begin, len(labels)), _place(end, len(labels)))]
    return ids


def _place(text: str, num: int) -> int | None:
    """A number of images, or a share of them, rounded down; None where it is left out."""
    if not text:
        return None
    return int(text[:-1]) * num // 100 if text.endswith("%") else int(text)
