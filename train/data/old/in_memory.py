"""Labelled examples decoded into memory, by threads."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Image
from fracgen.train.data.old.examples import Examples
from fracgen.train.data.old.feeding import cores
from fracgen.train.data.old.pictures import square
from fracgen.train.data.old.samples import Skipped
from fracgen.train.data.old.source import Progress
from fracgen.train.data.old.tars import BadSampleError

_CHUNK = 32


class Held(NamedTuple):
    """Examples in memory.

    images: uint8 (N, C, H, W) on the host, C 1 where all are gray, else 3. labels: int64 (N,).
    numbers: int64 (N,), which of the examples these are, ascending: all, but for bad ones that were skipped.
    """

    images: torch.Tensor
    labels: torch.Tensor
    numbers: npt.NDArray[np.int64]


class Needed(NamedTuple):
    """What a set would take. num_bytes: as `hold` keeps it. one_size: whether those looked at agree in size."""

    num_bytes: int
    one_size: bool


def needed(examples: Examples, *, resize: int = 0, looked_at: int = 32) -> Needed:
    """What it would take to hold the examples, told from a few of them, evenly spread.

    Raises DataError where none of these can be decoded.
    """
    found, fault = list[tuple[int, ...]](), DataError(f"{examples.name}: no image in it")
    for number in np.unique(np.linspace(0, len(examples) - 1, min(looked_at, len(examples))).astype(int)):
        try:
            found.append(_decode(examples, int(number), resize).shape)
        except BadSampleError as error:
            fault = error
    if not found:
        raise fault
    levels = max(height * width for height, width, *_ in found) * max(3 if len(shape) == 3 else 1 for shape in found)
    return Needed(len(examples) * levels, len({shape[:2] for shape in found}) == 1)


def hold(
    examples: Examples,
    *,
    resize: int = 0,
    skip_bad: bool = False,
    skipped: Skipped,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Held:
    """Decode all examples.

    resize: 0, or the side in pixels to which each is brought (shorter edge, bicubic; then the central square).
    skipped: takes those that cannot be decoded, where `skip_bad` is given. threads: one a core by default.
    Raises UsageError where sizes differ or memory does not do, BadSampleError for a broken image, DataError where no
    image is good.
    """
    num, good, first = len(examples), 0, 0
    images, labels, numbers = torch.empty(0), np.empty(num, np.int64), np.empty(num, np.int64)
    for number, image in _decoded(examples, resize, skip_bad, skipped, threads or cores()):
        channels = 3 if image.ndim == 3 else 1
        if not good:
            images, first = _room(num, channels, image.shape[:2]), number
        elif image.shape[:2] != images.shape[2:]:
            raise UsageError(
                f"images differ in size: {examples.where(first)} has {images.shape[3]} x {images.shape[2]}, "
                f"{examples.where(number)} {image.shape[1]} x {image.shape[0]}; give --resize N, or feed.mode=stream"
            )
        if channels > images.shape[1]:
            grown = _room(num, 3, image.shape[:2])
            grown[:good] = images[:good]
            images = grown
        images.numpy()[good] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        labels[good], numbers[good] = examples.labels[number], number
        good += 1
        if progress is not None and (good % 256 == 0 or good == num):
            progress(good, num)
    if not good:
        raise DataError(f"{examples.name}: no image of {num} can be used ({dict(skipped.counts)})")
    return Held(images[:good], torch.from_numpy(labels[:good]), numbers[:good])


def _room(num: int, channels: int, size: tuple[int, ...]) -> torch.Tensor:
    try:
        return torch.empty((num, channels, *size), dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        total = num * channels * size[0] * size[1]
        raise UsageError(f"{total} bytes of images do not fit in memory; give feed.mode=stream") from None


def _decode(examples: Examples, number: int, resize: int) -> Image:
    picture = examples.open(number, about=resize)
    return np.asarray(square(picture, resize) if resize else picture)


def _decoded(
    examples: Examples, resize: int, skip_bad: bool, skipped: Skipped, threads: int
) -> Iterator[tuple[int, Image]]:
    """(number, image) of the good examples, in order."""

    def work(numbers: list[int]) -> list[tuple[int, Image] | BadSampleError]:
        made = list[tuple[int, Image] | BadSampleError]()
        for number in numbers:
            try:
                made.append((number, _decode(examples, number, resize)))
            except BadSampleError as error:
                made.append(error)
        return made

    pending, numbers = deque[Future[list[tuple[int, Image] | BadSampleError]]](), iter(range(len(examples)))
    with ThreadPoolExecutor(threads) as pool:
        while True:
            if chunk := list(itertools.islice(numbers, _CHUNK)):
                pending.append(pool.submit(work, chunk))
            elif not pending:
                return
            if not chunk or len(pending) > 2 * threads:
                for made in pending.popleft().result():
                    if not isinstance(made, BadSampleError):
                        yield made
                    elif not skip_bad:
                        raise made
                    else:
                        skipped.extend([(made.reason, str(made))])
