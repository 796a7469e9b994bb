"""Labelled images at random access: the one type that pre-training, fine-tuning and probing read."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
"""Of one image: (H, W) gray or (H, W, 3) RGB."""
Label = int | Pixels
"""Of one image: its class; of an image with several, uint8 (number of classes,) of zeros and ones."""
Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are)."""


@dataclass(frozen=True)
class ImageShape:
    """What images decode to. channels: 1 for gray, 3 for RGB. height, width: the largest, where sizes differ.

    differing: of two images whose sizes differ, what these are, in words; "" where all have one size.
    sampled: whether the size is that of a few images; else it is a manifest's, or what all are resized to.
    """

    channels: int
    height: int
    width: int
    differing: str = ""
    sampled: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self.channels * self.height * self.width

    @property
    def one_size(self) -> bool:
        """Whether it is certain that all images have one size."""
        return not (self.differing or self.sampled)

    def __str__(self) -> str:
        mode = "RGB" if self.channels == 3 else "gray"
        return f"{self.width} x {self.height}{' (the largest)' if self.differing else ''} {mode}"


class Store(Protocol):
    """Where examples lie. Many threads read it at once; it is forked or pickled to workers."""

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, Label]:
        """(image, label) of example `number`: a picture in mode L or RGB, or its pixels.

        min_size: 0, or the side in pixels to which the image is going to be brought; a JPEG may be decoded smaller, its
        sides no less than this. Raises BadSampleError, which names the example.
        """

    def labels(self) -> Indices:
        """The label of each example, one of several, int64; -1 where it has none that can be used."""

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""

    def name(self, number: int) -> str:
        """What tells example `number` from the others of the store, wherever that lies."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One set or split of labelled images, at random access.

    name: for messages. class_names: by label. fingerprint: sha256 (hex) of what tells content and order without reading
    an image: names, sizes, labels, or a manifest. numbers: (N,) int64, which of the store's examples these are.
    shape: where a manifest tells it. block: how many neighbours are best read together; 1 where it makes no difference.
    multi_label: whether an image has several labels.
    place: how they lie, for the screen, as in "in 64 tars". cache_note: of a set at a URL, the cache and what was
    fetched, for the screen. folder: of shards of ours, where their manifest and card lie on this machine.
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    store: Store
    numbers: Indices
    shape: ImageShape | None = None
    block: int = 1
    multi_label: bool = False
    place: str = ""
    cache_note: str = ""
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of the label that comes with an image: (), or (number of classes,) where it has several."""
        return (len(self.class_names),) if self.multi_label else ()

    @cached_property
    def labels(self) -> Indices:
        """(N,) int64, each 0 to len(class_names) - 1, one of several. Of tars, the first call walks over headers."""
        return self.store.labels()[self.numbers]

    def load(self, number: int, min_size: int = 0) -> tuple[Image.Image | Pixels, Label]:
        """(image, label) as `Store.load` gives them. Raises BadSampleError, which names the example."""
        return self.store.load(int(self.numbers[number]), min_size)

    def open(self, number: int, min_size: int = 0) -> Image.Image:
        """Image `number`, decoded, in mode L or RGB. min_size: as `Store.load` takes it. Raises BadSampleError."""
        image, _ = self.load(number, min_size)
        return image if isinstance(image, Image.Image) else Image.fromarray(image)

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""
        return self.store.describe(int(self.numbers[number]))

    def sample_name(self, number: int) -> str:
        """What tells example `number` from the others, wherever they lie: a path below the folder, a row, a number."""
        return self.store.name(int(self.numbers[number]))

    def subset(self, numbers: npt.ArrayLike) -> "Examples":
        """These alone, in this order. numbers: (n,) of whole numbers, 0 to N - 1."""
        chosen = np.asarray(numbers, np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + chosen.astype("<i8").tobytes()).hexdigest()
        return replace(self, numbers=self.numbers[chosen], fingerprint=digest)

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        several = ", several an image" if self.multi_label else ""
        return f"{self.name}: {len(self):,} images of {len(self.class_names):,} classes{several}{place}"


def numbered(num_classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(map(str, range(num_classes)))
