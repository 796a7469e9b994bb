"""Batches of labelled examples that are not kept in memory: read, decoded and transformed by workers."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.data.old.examples import Examples
from fracgen.train.data.old.feeding import Part, check_batch, check_repeats, check_workers, feed
from fracgen.train.data.old.resident import Order
from fracgen.train.data.old.samples import Batch, Skipped, Transform, transformed
from fracgen.train.data.old.tars import BadSampleError

Indices = npt.NDArray[np.int64]


class Once(Skipped):
    """Each message counts once, however many workers and epochs meet it. met: the reason of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.met = dict[str, str]()

    def extend(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Take in those that are new."""
        for reason, message in skipped:
            if message not in self.met:
                self.met[message] = reason
                super().extend([(reason, message)])


class ExampleFeed:
    """Batches in the very order of a resident set with a transform, from examples that are decoded as they come.

    Position p of the run is entry p % N of the permutation of epoch p // N, transformed as a function of seed and p.
    A bad example, where these are skipped, gives its position to the next good entry of that epoch's permutation, so
    an epoch has as many samples as before and some of them twice; `Resident` has an order without the bad ones.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        transform: Transform,
        num_workers: int,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        skip_bad: bool = False,
        skipped: Once | None = None,
    ) -> None:
        """As `Resident`; num_workers: 1 or more. skipped: takes what is left out, with `skip_bad`.

        Raises UsageError for a batch that does not fit set and ranks.
        """
        check_repeats(repeats)
        check_workers(transform, num_workers)
        per_rank = check_batch(len(examples) * repeats, batch_size, rank, world)
        self.batch_size, self.seed, self.rank, self.world, self.device = batch_size, seed, rank, world, device
        self._examples, self._num_workers, self._skipped = examples, num_workers, skipped or Once()
        self._order = Order(len(examples), repeats, seed=seed, batch_size=batch_size, per_rank=per_rank, rank=rank)
        self._work = _TrainWork(examples, self._order, transform, seed, skip_bad, len(examples) * repeats)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return len(self._examples)

    @property
    def skipped(self) -> Counter[str]:
        """Examples that could not be used, by reason, each once; known as they are met."""
        return self._skipped.counts

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """The rank's batches from step `start_step` on, without end; each depends on set, seed, step and rank."""
        made = feed(self._work, start_step, self._num_workers, device=self.device, skipped=self._skipped)
        for step, (images, labels) in zip(itertools.count(start_step), made, strict=False):
            yield Batch(images, labels, self._order.positions(step))


class _TrainWork(NamedTuple):
    """Decoding and transforming of one rank's batches. num: positions of an epoch."""

    examples: Examples
    order: Order
    transform: Transform
    seed: int
    skip_bad: bool
    num: int

    @property
    def image_shape(self) -> None:
        """The transform decides it."""

    def most_rows(self, worker: int, num_workers: int) -> int:
        """Rows that a worker has of any step."""
        return len(range(worker, len(self.order.positions(0)), num_workers))

    def parts(
        self, start_step: int, worker: int, num_workers: int, slots: Sequence[torch.Tensor] = ()
    ) -> Iterator[Part]:
        """Every num_workers-th row of each step."""
        bad = set[int]()
        for step in itertools.count(start_step):
            positions = self.order.positions(step)
            rows = np.arange(worker, len(positions), num_workers)
            indices = self.order.indices(positions)[rows]
            made, labels, skipped = list[torch.Tensor](), list[int](), list[tuple[str, str]]()
            for index, position in zip(indices.tolist(), positions[rows].tolist(), strict=True):
                number, picture = self._good(index, position, bad, skipped)
                made.append(transformed(self.transform, np.asarray(picture), self.seed, position))
                labels.append(int(self.examples.labels[number]))
            yield Part(rows, torch.stack(made) if made else None, np.array(labels, np.int64), skipped=skipped)

    def _good(
        self, index: int, position: int, bad: set[int], skipped: list[tuple[str, str]]
    ) -> tuple[int, Image.Image]:
        """(number, picture) of the first entry that is good, from a position on, in the permutation of its epoch."""
        (epoch, entry), first = divmod(position, self.num), ""
        for ahead in range(self.num):
            if ahead:
                at = epoch * self.num + (entry + ahead) % self.num
                index = int(self.order.indices(np.array([at]))[0])
            if index in bad:
                continue
            try:
                return index, self.examples.open(index)
            except BadSampleError as error:
                if not self.skip_bad:
                    raise
                bad.add(index)
                first = first or f"; {error}"
                skipped.append((error.reason, str(error)))
        raise DataError(f"{self.examples.name}: no image of {len(self.examples)} can be used{first}")


def clean_batches(
    examples: Examples,
    transform: Transform,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    *,
    device: torch.device | None = None,
    skip_bad: bool = False,
    skipped: Skipped | None = None,
) -> Iterator[Batch]:
    """Every example once over all ranks, in order; of a rank every world-th, from `rank` on.

    Batches of at most `batch_size`: float (B, 3, S, S) images and labels on the device (the host by default), and as
    positions the numbers of the examples. transform: of an RGB picture; draws nothing. num_workers 0: a thread.
    skipped: takes the bad ones, which are missing from their batches where `skip_bad` is given.
    Raises BadSampleError as DataError from workers, UsageError for what ranks or sizes do not allow.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise UsageError(f"batches of {batch_size}, rank {rank} of {world}: give 1 or more; ranks count from 0")
    check_workers(None, num_workers)
    numbers = np.arange(rank, len(examples), world)
    if not len(numbers):
        return
    num_workers = min(num_workers, batch_size, len(numbers))
    work = _CleanWork(examples, transform, numbers, batch_size, skip_bad)
    made = feed(work, 0, num_workers, device=device or torch.device("cpu"), skipped=skipped or Skipped())
    for start, (images, labels) in zip(itertools.count(0, batch_size), made, strict=False):
        few = numbers[start : start + batch_size]
        if not skip_bad:
            yield Batch(images, labels, few)
        elif len(good := (labels >= 0).nonzero()[:, 0]):
            yield Batch(images[good], labels[good], few[good.cpu().numpy()])


class _CleanWork(NamedTuple):
    """Decoding and transforming of a rank's examples, once. A bad one is a black picture with label -1."""

    examples: Examples
    transform: Transform
    numbers: Indices
    batch_size: int
    skip_bad: bool

    @property
    def image_shape(self) -> None:
        """The transform decides it."""

    def most_rows(self, worker: int, num_workers: int) -> int:
        """Rows that a worker has of any step."""
        return len(range(worker, self.batch_size, num_workers))

    def parts(
        self, start_step: int, worker: int, num_workers: int, slots: Sequence[torch.Tensor] = ()
    ) -> Iterator[Part]:
        """Every num_workers-th row of each step."""
        for start in range(start_step * self.batch_size, len(self.numbers), self.batch_size):
            few = self.numbers[start : start + self.batch_size]
            rows = np.arange(worker, len(few), num_workers)
            made, labels, skipped = list[torch.Tensor](), list[int](), list[tuple[str, str]]()
            for number in few[rows].tolist():
                label = int(self.examples.labels[number])
                try:
                    picture = self.examples.picture(number)
                except BadSampleError as error:
                    if not self.skip_bad:
                        raise
                    skipped.append((error.reason, str(error)))
                    picture, label = Image.new("RGB", (64, 64)), -1
                made.append(self.transform(picture))
                labels.append(label)
            yield Part(rows, torch.stack(made) if made else None, np.array(labels, np.int64), skipped=skipped)
