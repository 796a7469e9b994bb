"""What workers make: pieces of batches to train on, and to evaluate on."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.data.examples import Examples, Indices, Pixels
from fracgen.train.data.in_memory import Source
from fracgen.train.data.pixels import Transform, convert_examples, transformed
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.skipped import BadSampleError, SkippedExample
from fracgen.train.data.workers import Piece


@dataclass(frozen=True)
class TrainPieces:
    """Decoded and, with a transform, transformed samples. Rows are positions of the run.

    slot_shape: (C, H, W) of uint8 images, None with a transform.
    """

    source: Source
    sampler: Sampler
    transform: Transform | None
    skip_bad: bool
    slot_shape: tuple[int, int, int] | None
    _bad: set[int] = field(default_factory=set)
    _next_good: dict[int, int] = field(default_factory=dict)

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """Samples of these positions, each a function of set, seed and position."""
        positions = np.arange(rows.start, rows.stop)
        labels, skipped, made = np.empty(len(rows), np.int64), list[SkippedExample](), list[Tensor]()
        images = slot
        if images is None and self.slot_shape is not None:
            images = torch.empty((len(rows), *self.slot_shape), dtype=torch.uint8)
        out = images.numpy() if images is not None else None
        for row, number in enumerate(self.sampler.numbers(positions).tolist()):
            pixels, labels[row] = self._read(number, skipped)
            if out is not None:
                out[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            elif self.transform is not None:
                made.append(transformed(self.transform, pixels, self.sampler.seed, rows[row]))
        if out is None:
            images = torch.stack(made) if made else None
        return Piece(None if slot is not None else images, labels, tuple(skipped))

    def _read(self, number: int, skipped: list[SkippedExample]) -> tuple[Pixels, int]:
        """(pixels, label) of an example, or of the next that can be used, the first after the last."""
        if not self.skip_bad:
            return self.source.read(number)
        num, first, start = self.sampler.num_examples, "", self._next_good.get(number, number)
        for ahead in range(num):
            candidate = (start + ahead) % num
            if candidate in self._bad:
                continue
            try:
                sample = self.source.read(candidate)
            except BadSampleError as error:
                first = first or f"; {error}"
                self._bad.add(candidate)
                skipped.append(error.skipped(self.source.describe(candidate)))
            else:
                if candidate != number:
                    self._next_good[number] = candidate
                return sample
        raise DataError(f"no image of {num} can be used{first}")


@dataclass(frozen=True)
class EvalPieces:
    """Transformed examples, without those that are bad. Rows are places in `numbers`."""

    examples: Examples
    numbers: Indices
    transform: Transform
    skip_bad: bool
    slot_shape: None = None

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """The good ones among these examples."""
        numbers = self.numbers[rows.start : rows.stop].tolist()
        good, images, skipped = convert_examples(self.examples, numbers, self.transform, skip_bad=self.skip_bad)
        return Piece(torch.stack(images) if images else None, self.examples.labels[good], tuple(skipped))
