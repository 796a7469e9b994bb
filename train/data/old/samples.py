"""Samples of a source as arrays: image and label, checked."""

import io
import itertools
import random
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.png import decode_png
from fracgen.shards.sample import Image
from fracgen.train.data.old.pictures import GRAY_MODES, over_black, square
from fracgen.train.data.old.source import Source, image_bytes
from fracgen.train.data.old.tars import BadSampleError, RawSample, read_samples
from fracgen.train.seeding import key

FORMATS = ("PNG", "JPEG", "WEBP")
_CHUNK = 32
SHOWN = 5
"""Skipped samples that are shown one by one; the others are only counted."""
Transform = Callable[[PillowImage.Image], torch.Tensor]
"""An RGB image to a float tensor (3, S, S). It may draw from the global generators of Python, numpy and torch."""


class Batch(NamedTuple):
    """What a rank trains on in one step.

    images: uint8 (B, C, H, W) on the device, or what the transform makes of them: float (B, 3, S, S).
    labels: int64 (B,) on the device. positions: the numbers of these samples in the whole run, from 0, on the host.
    """

    images: torch.Tensor
    labels: torch.Tensor
    positions: npt.NDArray[np.int64]


class SkippedDataWarning(UserWarning):
    """A sample that cannot be used was left out, as was asked for."""


class Skipped:
    """What was left out: counted by reason, and the first of it shown as warnings."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._shown = 0

    def extend(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Take in more: (reason, message) each."""
        for reason, message in skipped:
            self.counts[reason] += 1
            if self._shown < SHOWN:
                self._shown += 1
                warnings.warn(f"skipped: {message}", SkippedDataWarning, stacklevel=2)


def read_range(source: Source, tar: int, first: int, last: int) -> Iterator[RawSample | BadSampleError]:
    """Samples first to last - 1 of tar number `tar`, undecoded.

    Where the tar fails, raises BadSampleError; with `skip_bad`, gives the error in place of each sample that it takes.
    """
    number = first
    try:
        for raw in read_samples(source.tars[tar], source.counts[tar], first, last):
            yield raw
            number += 1
    except BadSampleError as error:
        if not source.skip_bad:
            raise
        if number == last:  # more samples than were counted: no position is theirs, so they are no loss to count
            warnings.warn(str(error), SkippedDataWarning, stacklevel=2)
        for _ in range(number, last):
            yield error


def decode(source: Source, raw: RawSample, *, any_size: bool = False) -> tuple[Image, int]:
    """(image, label) of a sample: uint8 of the shape that the source says, and 0 to num_classes - 1.

    any_size: let images that are files of any kind keep their size.
    Raises BadSampleError for a sample that is no good, UsageError for one that needs another option.
    """
    label = label_of(source, raw)
    data = image_bytes(raw, source.extensions)
    try:
        if source.originals:
            image = _open_picture(source, data)
        elif source.resize is None:
            image = decode_png(data, source.png_bits, shape=source.shape)
        else:
            picture = PillowImage.fromarray(decode_png(data, source.png_bits))
            image = np.asarray(square(picture, source.resize))
    except UnidentifiedImageError:
        raise BadSampleError(f"{raw}: no {', '.join(FORMATS)} image", "image") from None
    except (DataError, OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise BadSampleError(f"{raw}: image cannot be decoded ({error})", "image") from error
    if image.shape != source.shape and not (any_size and image.ndim == len(source.shape)):
        (height, width), other = source.shape[:2], "greatest" if source.ours else "first"
        raise UsageError(
            f"{raw}: {image.shape[1]} x {image.shape[0]} pixels, and the {other} image has {width} x {height}; "
            "give --resize N to read all at N x N"
        )
    return image, label


def stack(images: Sequence[Image], out: torch.Tensor) -> torch.Tensor:
    """Images, (H, W) or (H, W, 3), written into the first of `out`, uint8 (n or more, C, H, W); returns these."""
    room = out[: len(images)]
    for place, image in zip(room.numpy(), images, strict=True):
        place[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return room


def transformed(transform: Transform, image: Image, seed: int, position: int) -> torch.Tensor:
    """What a transform makes of an image, as a function of seed and position: the global generators are seeded."""
    words = key(seed, "augment", position)
    random.seed(words)
    np.random.seed(words & 0xFFFFFFFF)
    torch.default_generator.manual_seed(words)
    return transform(PillowImage.fromarray(image).convert("RGB"))


def label_of(source: Source, raw: RawSample) -> int:
    """The label of a sample: 0 to num_classes - 1. Raises as `decode`."""
    text = raw.members.get("cls")
    if text is None:
        raise BadSampleError(f"{raw} has no .cls", "members")
    if not text.strip().isdigit() or len(text) > 20:
        shown = text[:20].decode("utf-8", "replace").strip()
        raise BadSampleError(f"{raw}: label {shown!r}, not a number from 0 to {source.num_classes - 1}", "label")
    label = int(text)
    if label < source.num_classes:
        return label
    if source.ours:
        raise BadSampleError(f"{raw}: label {label}, and the manifest has {source.num_classes} classes", "label")
    raise UsageError(f"{raw}: label {label}, out of range for --num-classes {source.num_classes}")


def _open_picture(source: Source, data: bytes) -> Image:
    """Pixels in the source's mode: alpha over black; 16-bit images are refused, as their scale is not known."""
    with PillowImage.open(io.BytesIO(data), formats=FORMATS) as opened:
        if source.resize is not None:
            opened.draft(None, (source.resize, source.resize))  # a JPEG is decoded no larger than needed
        picture: PillowImage.Image = opened
        if picture.mode.startswith(("I", "F")):
            raise DataError(f"mode {picture.mode}; 8 bits a channel are read")
        if picture.mode not in GRAY_MODES:
            picture = over_black(picture)
        picture = picture.convert("L" if len(source.shape) == 2 else "RGB")
        return np.asarray(picture if source.resize is None else square(picture, source.resize))


class Decoded(NamedTuple):
    """A sample of the set. number: from 0, in the order of the tars."""

    number: int
    image: Image
    label: int


def decode_first(
    source: Source, num: int, skipped: Skipped, *, threads: int, chosen: slice = slice(None), any_size: bool = False
) -> Iterator[Decoded]:
    """`num` samples of the set, decoded by threads, in order: of each tar its first, as many as its share of the set.

    chosen: which of those numbers. Bad ones are left out where the source says so, else BadSampleError is raised.
    """
    wanted = np.zeros(source.num_samples, bool)
    wanted[np.concatenate(first_numbers(source.counts, num))[chosen]] = True

    def numbered() -> Iterator[tuple[int, RawSample | BadSampleError]]:
        for tar, numbers in enumerate(first_numbers(source.counts, num)):
            if len(numbers):
                found = read_range(source, tar, 0, len(numbers))
                yield from ((n, raw) for n, raw in zip(numbers.tolist(), found, strict=True) if wanted[n])

    def work(chunk: list[tuple[int, RawSample | BadSampleError]]) -> list[Decoded | BadSampleError]:
        return [_decode_or_error(source, number, raw, any_size) for number, raw in chunk]

    with ThreadPoolExecutor(threads) as pool:
        samples, pending = numbered(), deque[Future[list[Decoded | BadSampleError]]]()
        while True:
            if chunk := list(itertools.islice(samples, _CHUNK)):
                pending.append(pool.submit(work, chunk))
            elif not pending:
                return
            if not chunk or len(pending) > 2 * threads:
                for decoded in pending.popleft().result():
                    if isinstance(decoded, Decoded):
                        yield decoded
                    else:
                        skipped.extend([(decoded.reason, str(decoded))])


def first_numbers(counts: Sequence[int], num: int) -> list[npt.NDArray[np.int64]]:
    """Numbers of `num` samples of the set, tar by tar: of each its first, as many as its share of the set."""
    ends = np.cumsum((0, *counts))
    shares = np.diff(ends * num // ends[-1])
    return [np.arange(start, start + share) for start, share in zip(ends, shares, strict=False)]


def _decode_or_error(
    source: Source, number: int, raw: RawSample | BadSampleError, any_size: bool
) -> Decoded | BadSampleError:
    if isinstance(raw, BadSampleError):
        return raw
    try:
        return Decoded(number, *decode(source, raw, any_size=any_size))
    except BadSampleError as error:
        if not source.skip_bad:
            raise
        return error
