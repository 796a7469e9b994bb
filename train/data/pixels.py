"""Examples as pixels of one mode and, where it matters, of one size."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.images import resize_and_center_crop
from fracgen.train.data.examples import Examples, ImageShape, Pixels
from fracgen.train.data.skipped import BadSampleError, SkippedExample
from fracgen.train.seeding import key

T = TypeVar("T")
Transform = Callable[[Image.Image], torch.Tensor]
"""An RGB picture to a float tensor (3, S, S). It may draw from the global generators of Python, numpy and torch."""
_NUM_SAMPLED = 32


@dataclass(frozen=True)
class PixelReader:
    """Reads examples as uint8 (H, W) or (H, W, 3), all of the mode, and unless `any_size` all of the size, of `shape`.

    resize: 0, or the side to which each is brought: shorter edge, bicubic; then the central square.
    mend: what a user may do where sizes differ, in words.
    """

    examples: Examples
    shape: ImageShape
    resize: int = 0
    any_size: bool = False
    mend: str = "give --resize N to bring all to N x N"

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, number: int) -> tuple[Pixels, int]:
        """(pixels, label). Raises BadSampleError for an example that is no good, UsageError for one of another size."""
        image, label = self.examples.load(number, self.resize)
        pixels = _pixels(image, self.shape.channels, self.resize)
        if not self.any_size and pixels.shape[:2] != (self.shape.height, self.shape.width):
            height, width = pixels.shape[:2]
            raise UsageError(
                f"images differ in size: {self.describe(number)} has {width} x {height} pixels, others "
                f"{self.shape.width} x {self.shape.height}; {self.mend}"
            )
        return pixels, label

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""
        return self.examples.describe(number)


def sample_shape(examples: Examples, resize: int = 0) -> ImageShape:
    """The shape of decoded images: as a manifest tells it, else from 32 evenly spaced images, RGB where any is.

    Raises BadSampleError where none of these can be decoded.
    """
    shape = examples.shape if examples.shape is not None else _sampled_shape(examples)
    return ImageShape(shape.channels, resize, resize, sampled=shape.sampled) if resize else shape


def _sampled_shape(examples: Examples) -> ImageShape:
    sizes, channels, fault = dict[tuple[int, int], int](), 1, DataError(f"{examples.name}: no image in it")
    for number in np.unique(np.linspace(0, len(examples) - 1, min(_NUM_SAMPLED, len(examples))).astype(int)).tolist():
        try:
            picture = examples.open(number)
        except BadSampleError as error:
            fault = error
        else:
            sizes.setdefault(picture.size, number)
            channels = max(channels, len(picture.getbands()))
    if not sizes:
        raise fault
    one, *others = (f"{examples.describe(n)} has {width} x {height} pixels" for (width, height), n in sizes.items())
    height, width = max(size[1] for size in sizes), max(size[0] for size in sizes)
    return ImageShape(channels, height, width, differing=f"{one}, {others[0]}" if others else "", sampled=True)


def _pixels(image: Image.Image | Pixels, channels: int, resize: int) -> Pixels:
    mode = "RGB" if channels == 3 else "L"
    if isinstance(image, np.ndarray):
        if not resize and image.ndim == (3 if channels == 3 else 2):
            return image
        image = Image.fromarray(image)
    if image.mode != mode:
        image = image.convert(mode)
    return np.asarray(resize_and_center_crop(image, resize) if resize else image)


def transformed(transform: Transform, image: Pixels, seed: int, position: int) -> torch.Tensor:
    """What a transform makes of an image, as a function of seed and position: the global generators are seeded."""
    words = key(seed, "augment", position)
    random.seed(words)
    np.random.seed(words & 0xFFFFFFFF)
    torch.default_generator.manual_seed(words)
    return transform(Image.fromarray(image).convert("RGB"))


def convert_examples(
    examples: Examples, numbers: Iterable[int], convert: Callable[[Image.Image], T], *, skip_bad: bool
) -> tuple[list[int], list[T], list[SkippedExample]]:
    """(which could be decoded, what `convert` makes of each RGB picture, what was left out) of these examples.

    Raises BadSampleError for the first bad one, unless `skip_bad`.
    """
    good, results, skipped = list[int](), list[T](), list[SkippedExample]()
    for number in numbers:
        try:
            picture = examples.open(number)
        except BadSampleError as error:
            if not skip_bad:
                raise
            skipped.append(error.skipped(examples.describe(number)))
            continue
        good.append(number)
        results.append(convert(picture.convert("RGB")))
    return good, results, skipped
