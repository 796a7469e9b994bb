"""A split of a labelled set as a file of sample ids, with a checksum of what was read when it was written.

    {"format": "fracgen-split", "version": 1,
     "source": {"train": {"images": 8144, "sha256": "..."}, "test": {...}},
     "train": ["train/AM General Hummer/00163.jpg", ...], "val": [...], "test": [...]}

An id is the split that a sample lies in and its name there: of a file its path, of a saved row "train/row 7", of what
timm opens by name its number, of tars the tar and the key. `source`, whose sha256 covers names, sizes and labels, may
be left out by hand: then only the ids are checked.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import nearest
from fracgen.train.data.examples import Examples, Indices, Label, Pixels

FORMAT, VERSION = "fracgen-split", 1
ROLES = ("train", "val", "test")
Sources = Mapping[str, Examples]
"""The splits of a set as they lie, by "train", "val" and "test"."""
Ids = Mapping[str, Sequence[str]]
"""Sample ids by role: "train", "val", "test"."""


@dataclass(frozen=True)
class SplitFile:
    """What a split file says. ids: by role. source: (images, sha256) of each split that was read; may be empty."""

    path: Path
    ids: Ids
    source: Mapping[str, tuple[int, str]]

    def select(self, sources: Sources) -> dict[str, Examples]:
        """The samples of each role, in the order of the sources.

        Raises DataError, with the difference, where the sources are not those that the file was written of.
        """
        place = {name: (split, number) for split, names in _names(sources).items() for number, name in enumerate(names)}
        self._check(sources, place)
        roles = {}
        for role, ids in self.ids.items():
            numbers: dict[str, list[int]] = {}
            for each in ids:
                split, number = place[each]
                numbers.setdefault(split, []).append(number)
            parts = [_subset(sources[split], sorted(numbers[split])) for split in sources if split in numbers]
            if parts:
                roles[role] = parts[0] if len(parts) == 1 else join(parts)
        return roles

    def _check(self, sources: Sources, place: Mapping[str, Any]) -> None:
        where = next(iter(sources.values())).name
        missing = [each for ids in self.ids.values() for each in ids if each not in place]
        changes = list[str]()
        for split, (count, sha256) in self.source.items():
            if split not in sources:
                changes.append(f"no split {split} any more")
            elif len(sources[split]) != count:
                changes.append(f"{len(sources[split]):,} images in {split}, and there were {count:,}")
            elif sources[split].fingerprint != sha256 and not missing:
                changes.append(f"as many images in {split}, but other names, sizes or labels")
        if missing:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            changes.append(f"{missing[0]!r}{more} not there")
        if changes:
            raise DataError(f"{where}: not what {self.path} was written of: {'; '.join(changes)}")


def read_split_file(path: Path) -> SplitFile:
    """Read a split file. Raises UsageError where it is none, and for an id that comes twice."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file of sample ids")
    try:
        values = read_json(path)
    except DataError as error:
        raise UsageError(f"{path}: not a file of sample ids ({error})") from error
    known = ("format", "version", "source", *ROLES)
    for key in values:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(key, known)}; there are {', '.join(known)}")
    if values.get("format", FORMAT) != FORMAT or values.get("version", VERSION) != VERSION:
        raise UsageError(f"{path}: not a split of version {VERSION}")
    ids = {role: values[role] for role in ROLES if values.get(role)}
    for role, each in ids.items():
        if not isinstance(each, list) or not all(isinstance(name, str) for name in each):
            raise UsageError(f"{path}: {role} must be a list of sample ids, as 'train/cat/0001.jpg'")
    try:
        source = {split: (int(each["images"]), str(each["sha256"])) for split, each in values.get("source", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: source must have images and sha256 of each split") from None
    check_ids(ids, str(path))
    return SplitFile(path, ids, source)


def write_split_file(path: Path, sources: Sources, ids: Ids) -> None:
    """Write the ids of each role, and what the sources are. Raises UsageError for an id that comes twice."""
    check_ids(ids, str(path))
    values = {
        "format": FORMAT,
        "version": VERSION,
        "source": {split: {"images": len(each), "sha256": each.fingerprint} for split, each in sources.items()},
        **{role: list(ids[role]) for role in ROLES if ids.get(role)},
    }
    write_atomically(path, json.dumps(values, indent=0, ensure_ascii=False) + "\n")


def check_ids(ids: Ids, name: str) -> None:
    """Raises UsageError where nothing is to be trained on, or an id comes twice: training on a test image, say."""
    if not ids.get("train"):
        raise UsageError(f"{name}: no samples to train on")
    role_of: dict[str, str] = {}
    for role, each in ids.items():
        for sample in each:
            if other := role_of.get(sample):
                where = f"twice in {role}" if other == role else f"in {other} and in {role}"
                raise UsageError(f"{name}: {sample!r} is {where}")
            role_of[sample] = role


def sample_ids(sources: Sources) -> dict[str, list[str]]:
    """The ids of all samples of each split, in its order. Raises UsageError where two samples have one id."""
    by_split = _names(sources)
    for split, names in by_split.items():
        if len(set(names)) < len(names):
            raise UsageError(f"{sources[split].name}: two samples have the same name, so no file of ids can be written")
    return by_split


def _names(sources: Sources) -> dict[str, list[str]]:
    return {
        split: [f"{split}/{examples.sample_name(number)}" for number in range(len(examples))]
        for split, examples in sources.items()
    }


def _subset(examples: Examples, numbers: Sequence[int]) -> Examples:
    """These samples; all of them are the examples themselves, whose fingerprint stays."""
    return examples if len(numbers) == len(examples) else examples.subset(numbers)


@dataclass(frozen=True)
class JoinedStore:
    """Several examples as one store. ends: of each among all."""

    parts: tuple[Examples, ...]
    ends: tuple[int, ...]

    def _place(self, number: int) -> tuple[Examples, int]:
        part = bisect_right(self.ends, number)
        return self.parts[part], number - self.ends[part] + len(self.parts[part])

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, Label]:
        """(image, label) of a sample. Raises BadSampleError."""
        part, own = self._place(number)
        return part.load(own, min_size)

    def labels(self) -> Indices:
        """Of every sample, int64."""
        return np.concatenate([part.labels for part in self.parts])

    def describe(self, number: int) -> str:
        """As the part that it lies in describes it."""
        part, own = self._place(number)
        return part.describe(own)

    def name(self, number: int) -> str:
        """The number of the part, and the name there."""
        part, own = self._place(number)
        return f"{self.parts.index(part)}/{part.sample_name(own)}"


def join(parts: Sequence[Examples]) -> Examples:
    """Examples of the same classes one after the other."""
    first = parts[0]
    ends = tuple(np.cumsum([len(part) for part in parts]).tolist())
    digest = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()
    return replace(
        first,
        name=" + ".join(part.name for part in parts),
        fingerprint=digest,
        store=JoinedStore(tuple(parts), ends),
        numbers=np.arange(ends[-1]),
        shape=first.shape if all(part.shape == first.shape for part in parts) else None,
        block=1,
    )
