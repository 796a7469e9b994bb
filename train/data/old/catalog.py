"""Labelled sets by timm's names: torch/cifar100, hfds/..., tfds/..."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fracgen.shards.errors import UsageError
from fracgen.train.data.old.examples import Examples, Indices, make, numbered
from fracgen.train.data.old.pictures import plain, read_picture
from fracgen.train.data.old.tars import BadSampleError

_NAME = re.compile(r"(torch|hfds|tfds)/.", re.IGNORECASE)
_TEST_ONLY = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
"""Of torchvision, with a train and a test split; timm gives the others' second split as their validation."""
_VAL_SPLITS = ("validation", "val", "valid", "dev")


def is_name(data: str) -> bool:
    """Whether it is a name of a set that timm opens."""
    return _NAME.match(data) is not None


def open_named(data: str, root: str) -> dict[str, Examples]:
    """The splits of a set by name, "train", "val" and "test" as far as there are such, got from the net where needed.

    timm opens them, below the folder `root`. A split without labels counts for none. Sets of TensorFlow are decoded
    into memory at once, as they are read in order only; the others keep to their files.
    Raises UsageError, of one line, where it cannot be opened.
    """
    kind, _, rest = data.partition("/")
    kind = kind.lower()
    train = _create(data, root, "train")
    if kind == "torch":
        splits = {"test": "test"} if rest.lower().split("/")[-1] in _TEST_ONLY else {"val": "validation"}
    else:
        reader = train.reader
        about = (reader.dataset if kind == "hfds" else reader.builder).info.splits or {}
        val = next((split for split in _VAL_SPLITS if split in about), None)
        splits = {"val": val} if val else {}
        splits |= {"test": "test"} if "test" in about else {}
    found = {"train": train, **{role: _create(data, root, split) for role, split in splits.items()}}
    read = {"torch": _from_torch, "hfds": _from_hub, "tfds": _from_tensorflow}[kind]
    examples = dict[str, Examples]()
    for role, opened in found.items():
        name = f"{data}, split {splits.get(role, role)}"
        try:
            made = read(name, opened)
        except (AttributeError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise UsageError(f"{name}: not a set of pictures with one class each ({_one_line(error)})") from error
        if not len(made) or made.labels.max() >= 0:
            examples[role] = made
    return examples


def _create(data: str, root: str, split: str) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(data, root=root, split=split, download=True)
    except ImportError as error:
        needed = "tensorflow tensorflow-datasets" if data.lower().startswith("tfds") else "datasets"
        raise UsageError(f"{data}: needs a library that is not here: pip install {needed}") from error
    except Exception as error:  # of torchvision, datasets, TensorFlow or the net: each has errors of its own
        raise UsageError(
            f"{data}: its split {split!r} cannot be opened in {root!r} ({_one_line(error)}); "
            "without a net, put it there first"
        ) from error


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


def _named(name: str, class_names: Sequence[Any], labels: Any, pictures: Any) -> Examples:
    numbers: Indices = np.asarray(labels, np.int64)
    if numbers.ndim != 1:
        raise ValueError(f"labels of shape {numbers.shape}")
    names = [str(each[0] if isinstance(each, tuple) else each) for each in class_names]
    names = names or list(numbered(int(numbers.max(initial=-1)) + 1))
    of_name = Counter(names)  # ImageNet has two classes of cranes
    names = [each if of_name[each] == 1 else f"{each} ({number})" for number, each in enumerate(names)]
    if numbers.max(initial=-1) >= len(names) or (numbers.min(initial=0) < 0 <= numbers.max(initial=-1)):
        raise UsageError(f"{name}: labels {numbers.min()} to {numbers.max()}, and there are {len(names)} classes")
    told = hashlib.sha256(repr([name, names]).encode() + numbers.astype("<i8").tobytes()).hexdigest()
    return make(name, names, numbers, told, pictures)


@dataclass(frozen=True)
class _Indexed:
    """A set of torchvision or of the Hugging Face hub: `at(place)` gives a picture, or its bytes in a file."""

    name: str
    at: Any

    def open(self, place: int, about: int) -> Image.Image:
        try:
            given = self.at[place][0]
            if not isinstance(given, Image.Image):
                with given:
                    return read_picture(given.read(), self.label(place), about=about)
            return plain(given)
        except (OSError, SyntaxError, ValueError, AssertionError, Image.DecompressionBombError) as error:
            raise BadSampleError(f"{self.label(place)}: cannot be decoded ({error})", "image") from error

    def label(self, place: int) -> str:
        return f"{self.name}: image {place}"


def _from_torch(name: str, opened: Any) -> Examples:
    labels = opened.targets if hasattr(opened, "targets") else [category for category, _ in opened.index]
    names = getattr(opened, "classes", ()) or getattr(opened, "all_categories", ())
    return _named(name, names, labels, _Indexed(name, opened))


def _from_hub(name: str, opened: Any) -> Examples:
    reader = opened.reader
    return _named(name, list(reader.class_to_idx), reader.dataset[reader.label_key][:], _Indexed(name, reader))


@dataclass(frozen=True)
class _Kept:
    """Pictures in memory."""

    name: str
    images: Sequence[Any]

    def open(self, place: int, about: int) -> Image.Image:
        return plain(Image.fromarray(self.images[place]))

    def label(self, place: int) -> str:
        return f"{self.name}: image {place}"


def _from_tensorflow(name: str, opened: Any) -> Examples:
    pairs = [(np.asarray(picture), int(label)) for picture, label in opened]
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    return _named(name, list(opened.reader.class_to_idx), labels, _Kept(name, images))
