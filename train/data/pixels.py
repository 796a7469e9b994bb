"""Examples as pixels of one mode and, where it matters, of one size: decoded when they are read, or kept in memory."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import num_cores
from fracgen.shards.images import resize_and_center_crop
from fracgen.train.data.examples import Examples, ImageShape, Indices, Label, Pixels, Progress
from fracgen.train.data.skipped import BadSampleError, Skipped, SkippedExample, read_good

RESIZE = "give --resize N to bring all to N x N"
_STREAM = "give --loader stream"
_NUM_SAMPLED = 32
_CHUNK = 32
"""Examples that a thread decodes at a time."""


@dataclass(frozen=True)
class PixelReader:
    """Reads examples as uint8 (H, W) or (H, W, 3): all of mode and size of `shape`, or with `any_size` each of its own.

    resize: 0, or the side to which each is brought: shorter edge, bicubic; then the central square; with `squeeze` both
    edges.
    mend: what a user may do where sizes differ, in words.
    """

    examples: Examples
    shape: ImageShape
    resize: int = 0
    any_size: bool = False
    mend: str = RESIZE
    squeeze: bool = False

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def planes(self) -> tuple[int, int, int]:
        """(C, H, W) of each image, unless `any_size`."""
        return self.shape.channels, self.shape.height, self.shape.width

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of each label: (), or (number of classes,)."""
        return self.examples.label_shape

    def read(self, number: int) -> tuple[Pixels, Label]:
        """(pixels, label).

        Raises BadSampleError for an example that is no good, UsageError for one of another size, or in colour where
        `shape` is gray.
        """
        image, label = self.examples.load(number, self.resize)
        if self.any_size:
            return np.asarray(image), label
        if self.shape.channels == 1 and _is_coloured(image):
            raise UsageError(
                f"images differ in mode: {self.describe(number)} has colours, and those that were looked at first have "
                "none; give --loader stream --augment timm, without --resize, or `fracgen pack` them first"
            )
        pixels = _pixels(image, self.shape.channels, self.resize, self.squeeze)
        if pixels.shape[:2] != (self.shape.height, self.shape.width):
            height, width = pixels.shape[:2]
            raise UsageError(
                f"images differ in size: {self.describe(number)} has {width} x {height} pixels, others "
                f"{self.shape.width} x {self.shape.height}; {self.mend}"
            )
        return pixels, label

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""
        return self.examples.describe(number)


def _is_coloured(image: Image.Image | Pixels) -> bool:
    """Whether turning an image gray loses anything: files of gray images are often RGB of equal channels."""
    if isinstance(image, Image.Image) and image.mode == "L":
        return False
    pixels = np.asarray(image)
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def _pixels(image: Image.Image | Pixels, channels: int, resize: int, squeeze: bool) -> Pixels:
    mode = "RGB" if channels == 3 else "L"
    if isinstance(image, np.ndarray):
        if not resize and image.ndim == (3 if channels == 3 else 2):
            return image
        image = Image.fromarray(image)
    if image.mode != mode:
        image = image.convert(mode)
    if resize and squeeze:
        return np.asarray(image.resize((resize, resize), Image.Resampling.BICUBIC))
    return np.asarray(resize_and_center_crop(image, resize) if resize else image)


def empty_labels(num: int, label_shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Room for the labels of `num` images: int64 (num,), or uint8 (num, number of classes)."""
    return np.empty((num, *label_shape), np.uint8 if label_shape else np.int64)


def channels_first(pixels: Pixels) -> Pixels:
    """(H, W) as it is, which fills (1, H, W); (H, W, 3) as (3, H, W), a view."""
    return pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def sample_shape(examples: Examples, resize: int = 0) -> ImageShape:
    """The shape of decoded images: as a manifest tells it, else from 32 evenly spaced images, RGB where any is.

    Where these are gray by chance, `PixelReader.read` refuses the first in colour.

    Raises BadSampleError where none of these can be decoded.
    """
    shape = examples.shape if examples.shape is not None else _sampled_shape(examples)
    return ImageShape(shape.channels, resize, resize) if resize else shape


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


@dataclass(frozen=True, eq=False)
class InMemory:
    """Decoded examples.

    images: uint8 (M, C, H, W). labels: int64 (M,); uint8 (M, number of classes) where an image has several.
    numbers: int64 (M,), which of the examples these are, ascending: all but for bad ones that were skipped.
    rows: int64 (N,), of each example its row; of a bad one, that of the next good one, the first after the last.
    """

    images: Tensor
    labels: Tensor
    numbers: Indices
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def planes(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of each label: (), or (number of classes,)."""
        return tuple(self.labels.shape[1:])

    def read(self, number: int) -> tuple[Pixels, Label]:
        """(pixels, label) of an example, from memory on the host."""
        row = int(self.rows[number])
        pixels: Pixels = self.images[row].numpy()
        label: Label = self.labels[row].numpy() if self.label_shape else int(self.labels[row])
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0), label

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""
        return f"example {number}"

    def take(self, numbers: Indices) -> tuple[Tensor, Tensor]:
        """(images, labels) of these examples, copied, on the device that these are on."""
        rows = torch.from_numpy(self.rows[numbers])
        if self.images.is_cuda:
            rows = rows.pin_memory().to(self.images.device, non_blocking=True)
        return self.images.index_select(0, rows), self.labels.index_select(0, rows)

    def to(self, device: torch.device) -> "InMemory":
        """The same on a device. Raises UsageError where it does not fit there."""
        try:
            return InMemory(self.images.to(device), self.labels.to(device), self.numbers, self.rows)
        except torch.OutOfMemoryError as error:
            raise UsageError(f"{self.images.nbytes} bytes of images do not fit on {device}; {_STREAM}") from error


Source = InMemory | PixelReader
"""Examples as pixels of one mode: from memory, or decoded when they are read."""


def load_into_memory(
    reader: PixelReader, *, skip_bad: bool = False, skipped: Skipped, progress: Progress | None = None
) -> InMemory:
    """Decode all examples, by a thread a core.

    skipped: takes those that are bad, where `skip_bad` is given.
    Raises UsageError where sizes differ or memory is not enough, BadSampleError for a bad example, DataError where no
    example is good.
    """
    num = len(reader)
    try:
        images = torch.empty((num, *reader.planes), dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise UsageError(f"{num * reader.shape.num_bytes} bytes of images do not fit in memory; {_STREAM}") from None
    planes, labels = images.numpy(), empty_labels(num, reader.label_shape)

    def decode(number: int) -> None:
        pixels, labels[number] = reader.read(number)
        planes[number] = channels_first(pixels)

    def decode_chunk(start: int) -> tuple[list[int], list[SkippedExample]]:
        chunk = range(start, min(start + _CHUNK, num))
        numbers, _, bad = read_good(decode, chunk, reader.describe, skip_bad=skip_bad)
        return numbers, bad

    good = list[int]()
    pool = ThreadPoolExecutor(num_cores(), "decoding")
    try:
        for done, (numbers, bad) in enumerate(pool.map(decode_chunk, range(0, num, _CHUNK)), start=1):
            good += numbers
            skipped.extend(bad)
            if progress is not None:
                progress(min(done * _CHUNK, num), num)
    finally:
        pool.shutdown(cancel_futures=True)
    if not good:
        raise DataError(f"{reader.examples.name}: no image of {num} can be used ({dict(skipped.counts)})")
    for row, number in enumerate(good):  # ascending, so that no row is written before it is read
        if row < number:
            planes[row] = planes[number]
    good_numbers = np.array(good, np.int64)
    rows = np.searchsorted(good_numbers, np.arange(num)) % len(good)
    return InMemory(images[: len(good)], torch.from_numpy(labels[good_numbers]), good_numbers, rows)
