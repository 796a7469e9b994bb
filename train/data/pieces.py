"""What workers make: pieces of batches to train on, and to evaluate on."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.data.examples import Indices, Label, Pixels
from fracgen.train.data.pixels import Source, channels_first, empty_labels
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.skipped import SkippedExample, read_good
from fracgen.train.data.workers import Piece
from fracgen.train.seeding import key

Transform = Callable[[Image.Image], Tensor]
"""An RGB picture to a float tensor (3, S, S). It may draw from the global generators of Python, numpy and torch."""


@dataclass(frozen=True, kw_only=True)
class _Pieces:
    """Samples of `source` as pieces. transform: None leaves pixels as they are, all of one size."""

    source: Source
    transform: Transform | None
    skip_bad: bool

    @property
    def slot_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images, where they are pixels; None with a transform."""
        return self.source.planes if self.transform is None else None

    def _piece(
        self,
        samples: Iterable[tuple[Pixels, Label]],
        rows: range,
        slot: Tensor | None,
        skipped: Sequence[SkippedExample],
    ) -> Piece:
        """Samples, no more than rows, as a piece. skipped: may grow while samples are taken."""
        labels, images = empty_labels(len(rows), self.source.label_shape), list[Tensor]()
        count = 0
        if slot is None and self.slot_shape is not None:
            slot = torch.empty((len(rows), *self.slot_shape), dtype=torch.uint8)
        out = None if slot is None else slot.numpy()
        for row, (pixels, label) in zip(rows, samples, strict=False):
            if out is not None:
                out[count] = channels_first(pixels)
            elif self.transform is not None:
                self._seed(row)
                images.append(self.transform(Image.fromarray(pixels).convert("RGB")))
            labels[count] = label
            count += 1
        if slot is not None:
            return Piece(slot[:count], labels[:count], tuple(skipped))
        return Piece(torch.stack(images) if images else None, labels[:count], tuple(skipped))

    def _seed(self, row: int) -> None:
        """Called before each transform."""


@dataclass(frozen=True, kw_only=True)
class TrainPieces(_Pieces):
    """Rows are positions of the run: each sample is a function of set, seed and position."""

    sampler: Sampler
    _next_good: dict[int, int] = field(default_factory=dict)

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """The samples of these positions. A bad example leaves its place to the next that can be used."""
        skipped = list[SkippedExample]()
        numbers = self.sampler.numbers(np.arange(rows.start, rows.stop)).tolist()
        return self._piece((self._read(number, skipped) for number in numbers), rows, slot, skipped)

    def _seed(self, row: int) -> None:
        words = key(self.sampler.seed, "augment", row)
        random.seed(words)
        np.random.seed(words & 0xFFFFFFFF)
        torch.default_generator.manual_seed(words)

    def _read(self, number: int, skipped: list[SkippedExample]) -> tuple[Pixels, Label]:
        """(pixels, label) of an example, or of the next that can be used, the first after the last."""
        if not self.skip_bad:
            return self.source.read(number)
        num, bad, message = self.sampler.num_examples, list[int](), ""
        for _ in range(num):
            number = self._next_good.get(number, number)
            _, samples, failed = read_good(self.source.read, [number], self.source.describe, skip_bad=True)
            if samples:
                self._next_good.update(dict.fromkeys(bad, number))
                return samples[0]
            skipped += failed
            bad.append(number)
            message = message or failed[0].message
            number = (number + 1) % num
        raise DataError(f"no image of {num} can be used; {message}")


@dataclass(frozen=True, kw_only=True)
class EvalPieces(_Pieces):
    """Rows are positions in `numbers`, (n,) int64, which has the example of each."""

    numbers: Indices

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """The good ones among these examples."""
        numbers = self.numbers[rows.start : rows.stop].tolist()
        _, samples, skipped = read_good(self.source.read, numbers, self.source.describe, skip_bad=self.skip_bad)
        return self._piece(samples, rows, slot, skipped)
