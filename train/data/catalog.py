"""Examples by timm's names of labelled sets: torch/cifar100, hfds/..., tfds/..."""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fracgen.shards.errors import AbsentError, BadImageError, UsageError
from fracgen.shards.images import decode_picture, to_gray_or_rgb
from fracgen.shards.settings import nearest
from fracgen.train.data.examples import Examples, Indices, Pixels, Progress, numbered
from fracgen.train.data.skipped import BadSampleError

_TEST_ONLY = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
"""Of torchvision, with a train and a test split; timm gives the others' second split as their validation."""
_OF_TIMM = (*_TEST_ONLY, "inaturalist", "places365", "imagenet", "image_folder")
"""Names that timm knows after torch/."""
_VAL_SPLITS = ("validation", "val", "valid", "dev")


def nearest_name(data: str) -> str:
    """ ", did you mean 'torch/cifar100'?", where a name of torchvision's is near; else nothing."""
    if "/" not in data:  # a folder's name, most often: 'my-images' means no 'torch/imagenet'
        near = difflib.get_close_matches(data, _OF_TIMM, n=1, cutoff=0.75)
        return f", did you mean 'torch/{near[0]}'?" if near else ""
    names = [f"torch/{name}" for name in _OF_TIMM]
    return "" if data in names else nearest(data, names)


def open_named(data: str, root: str, progress: Progress | None = None) -> dict[str, Examples]:
    """The splits of a set by name, "train", "val" and "test" as far as there are such, got from the net where needed.

    timm opens them, below the folder `root`. A split without labels counts for none. Sets of TensorFlow are decoded
    into memory at once, as they are read in order only; the others keep to their files.
    progress: called with (splits that are open, splits that there are).
    Raises UsageError, of one line, where it cannot be opened.
    """
    kind, _, rest = data.partition("/")
    kind = kind.lower()
    train = _create(data, root, "train")
    if kind == "torch":
        splits = {"test": "test"} if rest.lower().split("/")[-1] in _TEST_ONLY else {"val": "validation"}
    else:
        reader = train.reader
        known = (reader.dataset if kind == "hfds" else reader.builder).info.splits or {}
        val = next((split for split in _VAL_SPLITS if split in known), None)
        splits = {"val": val} if val else {}
        splits |= {"test": "test"} if "test" in known else {}
    read = {"torch": _from_torch, "hfds": _from_hub, "tfds": _from_tensorflow}[kind]
    examples = dict[str, Examples]()
    for done, (role, split) in enumerate({"train": "train", **splits}.items()):
        opened = train if role == "train" else _create(data, root, split)
        name = f"{data}, split {split}"
        try:
            split_examples = read(name, opened)
        except (AttributeError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise UsageError(f"{name}: not a set of pictures with one class each ({_one_line(error)})") from error
        if not len(split_examples) or split_examples.labels.max() >= 0:
            examples[role] = split_examples
        if progress is not None:
            progress(done + 1, len(splits) + 1)
    return examples


def _create(data: str, root: str, split: str) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(data, root=root, split=split, download=True)
    except ImportError as error:
        libraries = "tensorflow tensorflow-datasets" if data.lower().startswith("tfds") else "datasets"
        raise AbsentError(f"{data}: needs a library that is not here: pip install {libraries}") from error
    except Exception as error:  # of torchvision, datasets, TensorFlow or the net: each has errors of its own
        if data.lower().startswith("torch/") and re.search(r"nknown (torchvision )?dataset", str(error)):
            raise UsageError(f"{data}: no such set ({_one_line(error)}){nearest_name(data)}") from error
        raise AbsentError(
            f"{data}: its split {split!r} cannot be opened in {root!r} ({_one_line(error)}); "
            "without a net, put it there first"
        ) from error


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


@dataclass(frozen=True)
class CatalogStore:
    """Images of a set of torchvision or of the Hugging Face hub, where `images[n][0]` is a picture or its opened file;
    or decoded ones, where `images[n]` is an array."""

    source: str
    images: Any
    all_labels: Indices

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, int]:
        """(picture, label). Raises BadSampleError with exit code 2."""
        label = int(self.all_labels[number])
        try:
            if isinstance(self.images, list):
                return to_gray_or_rgb(Image.fromarray(self.images[number])), label
            image = self.images[number][0]
            if isinstance(image, Image.Image):
                image.load()
                return to_gray_or_rgb(image), label
            with image:
                return decode_picture(image.read(), min_size=min_size), label
        except BadImageError as error:
            raise BadSampleError(f"{self.describe(number)}: {error}", "image", usage=True) from error
        except (OSError, SyntaxError, ValueError, AssertionError, Image.DecompressionBombError) as error:
            message = f"{self.describe(number)}: cannot be decoded ({error})"
            raise BadSampleError(message, "image", usage=True) from error

    def labels(self) -> Indices:
        """Of every image, int64."""
        return self.all_labels

    def describe(self, number: int) -> str:
        """As in "torch/cifar10, split train: image 7"."""
        return f"{self.source}: image {number}"

    def name(self, number: int) -> str:
        """Its number: sets by name have an order of their own."""
        return str(number)


def _examples(name: str, class_names: Sequence[Any], labels: Any, images: Any) -> Examples:
    numbers: Indices = np.asarray(labels, np.int64)
    if numbers.ndim != 1:
        raise ValueError(f"labels of shape {numbers.shape}")
    names = [str(each[0] if isinstance(each, tuple) else each) for each in class_names]
    names = names or list(numbered(int(numbers.max(initial=-1)) + 1))
    of_name = Counter(names)  # ImageNet has two classes of cranes
    names = [each if of_name[each] == 1 else f"{each} ({number})" for number, each in enumerate(names)]
    if numbers.max(initial=-1) >= len(names) or (numbers.min(initial=0) < 0 <= numbers.max(initial=-1)):
        raise UsageError(f"{name}: labels {numbers.min()} to {numbers.max()}, and there are {len(names)} classes")
    fingerprint = hashlib.sha256(repr([name, names]).encode() + numbers.astype("<i8").tobytes()).hexdigest()
    return Examples(name, tuple(names), fingerprint, CatalogStore(name, images, numbers), np.arange(len(numbers)))


def _from_torch(name: str, opened: Any) -> Examples:
    labels = opened.targets if hasattr(opened, "targets") else [category for category, _ in opened.index]
    names = getattr(opened, "classes", ()) or getattr(opened, "all_categories", ())
    return _examples(name, names, labels, opened)


def _from_hub(name: str, opened: Any) -> Examples:
    reader = opened.reader
    return _examples(name, list(reader.class_to_idx), reader.dataset[reader.label_key][:], reader)


def _from_tensorflow(name: str, opened: Any) -> Examples:
    pairs = [(np.asarray(picture), int(label)) for picture, label in opened]
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    return _examples(name, list(opened.reader.class_to_idx), labels, images)
