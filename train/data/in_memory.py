"""Examples that are decoded into memory, by threads."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import num_cores
from fracgen.train.data.examples import Indices, Pixels, Progress
from fracgen.train.data.pixels import PixelReader
from fracgen.train.data.skipped import BadSampleError, Skipped, SkippedExample

_CHUNK = 32


@dataclass(frozen=True, eq=False)
class InMemory:
    """Decoded examples.

    images: uint8 (M, C, H, W). labels: int64 (M,). numbers: int64 (M,), which of the examples these are, ascending: all
    but for bad ones that were skipped. rows: int64 (N,), of each example its row; of a bad one, that of the next good
    one, the first after the last.
    """

    images: torch.Tensor
    labels: torch.Tensor
    numbers: Indices
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, number: int) -> tuple[Pixels, int]:
        """(pixels, label) of an example, from memory on the host."""
        row = int(self.rows[number])
        pixels: Pixels = self.images[row].numpy()
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0), int(self.labels[row])

    def describe(self, number: int) -> str:
        """The name of example `number`, for messages."""
        return f"example {number}"

    def to(self, device: torch.device) -> "InMemory":
        """The same on a device. Raises UsageError where it does not fit there."""
        try:
            return InMemory(self.images.to(device), self.labels.to(device), self.numbers, self.rows)
        except torch.OutOfMemoryError as error:
            raise UsageError(f"{self.images.nbytes} bytes of images do not fit on {device}; {_STREAM}") from error


Source = InMemory | PixelReader
"""Examples as pixels of one mode: from memory, or decoded when they are read."""
_STREAM = "give --loader stream"


def load_into_memory(
    reader: PixelReader,
    *,
    skip_bad: bool = False,
    skipped: Skipped,
    progress: Progress | None = None,
    threads: int | None = None,
) -> InMemory:
    """Decode all examples.

    skipped: takes those that are bad, where `skip_bad` is given. threads: one a core by default.
    Raises UsageError where sizes differ or memory is not enough, BadSampleError for a bad example, DataError where no
    example is good.
    """
    num, good = len(reader), 0
    shape = reader.shape
    try:
        images = torch.empty((num, shape.channels, shape.height, shape.width), dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise UsageError(f"{num * shape.num_bytes} bytes of images do not fit in memory; {_STREAM}") from None
    out, labels, numbers = images.numpy(), np.empty(num, np.int64), np.empty(num, np.int64)
    for number, pixels, label in read_all(
        reader, range(num), skip_bad=skip_bad, skipped=skipped, threads=threads or num_cores()
    ):
        out[good] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        labels[good], numbers[good] = label, number
        good += 1
        if progress is not None and (good % 256 == 0 or good == num):
            progress(good, num)
    if not good:
        raise DataError(f"{reader.examples.name}: no image of {num} can be used ({dict(skipped.counts)})")
    rows = np.searchsorted(numbers[:good], np.arange(num)) % good
    return InMemory(images[:good], torch.from_numpy(labels[:good]), numbers[:good], rows)


def read_all(
    reader: PixelReader, numbers: "range | Indices", *, skip_bad: bool, skipped: Skipped, threads: int
) -> Iterator[tuple[int, Pixels, int]]:
    """(number, pixels, label) of the good ones among these examples, in order, read and decoded by threads.

    Raises BadSampleError for the first bad one, unless `skip_bad`, which has `skipped` take it.
    """

    def work(chunk: list[int]) -> list[tuple[int, Pixels, int] | SkippedExample]:
        results = list[tuple[int, Pixels, int] | SkippedExample]()
        for number in chunk:
            try:
                results.append((number, *reader.read(number)))
            except BadSampleError as error:
                if not skip_bad:
                    raise
                results.append(error.skipped(reader.describe(number)))
        return results

    pending, remaining = deque[Future[list[tuple[int, Pixels, int] | SkippedExample]]](), iter(numbers)
    pool = ThreadPoolExecutor(threads, "decoding")
    try:
        while True:
            if chunk := [int(number) for number in itertools.islice(remaining, _CHUNK)]:
                pending.append(pool.submit(work, chunk))
            elif not pending:
                return
            if not chunk or len(pending) > 2 * threads:
                for result in pending.popleft().result():
                    if isinstance(result, SkippedExample):
                        skipped.extend([result])
                    else:
                        yield result
    finally:
        pool.shutdown(cancel_futures=True)
