"""A set that is streamed from its tars, in an order that depends on neither workers nor where a run was resumed."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fracgen.shards.errors import DataError
from fracgen.shards.sample import Image
from fracgen.train.data.old.feeding import Part, check_batch, check_workers, cores, feed
from fracgen.train.data.old.samples import (
    Batch,
    Decoded,
    Skipped,
    Transform,
    decode,
    decode_first,
    read_range,
    stack,
    transformed,
)
from fracgen.train.data.old.source import Source
from fracgen.train.data.old.tars import BadSampleError, RawSample
from fracgen.train.seeding import generator

Indices = npt.NDArray[np.int64]

MIN_LANES = 64
"""Enough for 8 ranks with 8 workers each. The order is the same for all numbers of ranks that divide it."""
SHUFFLE = 8192
"""Samples over which all lanes together shuffle; half as many are held, encoded."""
_HOPELESS = 64


@dataclass(frozen=True)
class Plan:
    """Which sample of the set each position of the run has.

    Position p belongs to lane p % num_lanes and to epoch p // num_samples. An epoch lays all tars one after the other,
    in an order of its own, and cuts the row of samples into one range a lane, each as long as the lane has positions in
    that epoch (so lengths differ by one at most, and from epoch to epoch). A lane reads its range in order and emits it
    shuffled within a window. So every epoch has every sample exactly once, however many tars, ranks and workers.
    """

    counts: tuple[int, ...]
    seed: int
    num_lanes: int
    window: int

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.counts)

    def lane_range(self, lane: int, epoch: int) -> tuple[int, int, int]:
        """(first position, start, count): of a lane's range in the row of samples of an epoch."""
        begin, each, longer = epoch * self.num_samples, *divmod(self.num_samples, self.num_lanes)
        offsets = (np.arange(self.num_lanes) - begin) % self.num_lanes
        counts = each + (offsets < longer)
        return begin + int(offsets[lane]), int(counts[:lane].sum()), int(counts[lane])

    def pieces(self, epoch: int, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(tar, first, last) of each piece of a range of the row of samples: samples first to last - 1 of that tar."""
        tars = generator(self.seed, "order", epoch).permutation(len(self.counts))
        ends = np.cumsum(np.array(self.counts, np.int64)[tars])
        place, stop = int(np.searchsorted(ends, start, side="right")), start + count
        while start < stop:
            tar, end = int(tars[place]), int(ends[place])
            first = start - (end - self.counts[tar])
            last = min(self.counts[tar], first + stop - start)
            if last > first:
                yield tar, first, last
            start, place = start + last - first, place + 1

    def order(self, lane: int, epoch: int, count: int) -> Indices:
        """In which order a lane emits the samples of its range: a permutation that moves none by the window or more.

        Sorting by place + window x U(0, 1): what a shuffle buffer does, as a function of epoch and lane alone.
        """
        jitter = generator(self.seed, "shuffle", epoch, lane).random(count)
        return np.argsort(np.arange(count) + self.window * jitter, kind="stable")


class Stream:
    """Batches read from the tars while the model computes; memory does not grow with the set.

    See `Plan` for the order. A rank takes every world-th position, and its workers the lanes of these; so every rank
    takes the same number of steps. A resumed run seeks to its place: nothing before it is read or decoded.
    A bad sample that is skipped leaves its position to the next good one of its lane, which is then seen twice: so
    steps, positions and resuming stay as they are.
    skipped: what was left out, by reason, each time it was met.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        transform: Transform | None = None,
        num_workers: int = 1,
        shuffle: int = SHUFFLE,
    ) -> None:
        """Nothing is read yet.

        batch_size: global, all ranks together. num_workers: processes of this rank, 0 for a thread of this one.
        shuffle: samples over which is shuffled, by all ranks together; 0 for not at all.
        Raises UsageError for a batch that does not fit set and ranks, or too few workers for a transform.
        """
        per_rank = check_batch(source.num_samples, batch_size, rank, world)
        check_workers(transform, num_workers)
        num_lanes = -(-MIN_LANES // world) * world
        plan = Plan(source.counts, seed, num_lanes, shuffle // num_lanes)
        self.source, self.device, self.skipped_samples = source, device, Skipped()
        self._work = _LaneWork(source, plan, batch_size, per_rank, rank, world, transform)
        self._num_workers = min(num_workers, num_lanes // world)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self.source.num_samples

    @property
    def skipped(self) -> Counter[str]:
        """Samples left out so far, by reason, of this rank's workers together."""
        return self.skipped_samples.counts

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """The rank's batches from step `start_step` on, without end; each depends on source, seed, step and rank.

        Raises DataError for a bad sample or tar, which it names, and where a worker dies; UsageError for a sample that
        needs another option.
        """
        made = feed(self._work, start_step, self._num_workers, device=self.device, skipped=self.skipped_samples)
        for step, (images, labels) in zip(itertools.count(start_step), made, strict=False):
            yield Batch(images, labels, self._work.positions(step))

    def clean(
        self, num: int | None = None, *, batch_size: int | None = None, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """As `Resident.clean`, read anew each time; images of sizes of their own come one by one."""
        num = self.num_samples if num is None else min(num, self.num_samples)
        chosen = slice(rank, None, world)
        any_size = self._work.transform is not None and not self.source.one_size
        found = decode_first(self.source, num, self.skipped_samples, threads=cores(), chosen=chosen, any_size=any_size)
        while few := list(itertools.islice(found, 1 if any_size else batch_size or self._work.per_rank)):
            shape = self.source.image_shape[0], *few[0].image.shape[:2]
            images = torch.empty((len(few), *shape), dtype=torch.uint8)
            stack([one.image for one in few], images)
            labels = torch.tensor([one.label for one in few])
            numbers = np.array([one.number for one in few])
            yield Batch(images.to(self.device), labels.to(self.device), numbers)


@dataclass(frozen=True)
class _LaneWork:
    """The lanes of a rank, shared out to its workers."""

    source: Source
    plan: Plan
    batch_size: int
    per_rank: int
    rank: int
    world: int
    transform: Transform | None

    def positions(self, step: int) -> Indices:
        """Positions of the rank in a step: int64 (per_rank,)."""
        return step * self.batch_size + self.rank + self.world * np.arange(self.per_rank)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W), where no transform decides it."""
        return self.source.image_shape if self.transform is None else None

    def most_rows(self, worker: int, num_workers: int) -> int:
        """Rows that a worker has of any step."""
        num_lanes = self.plan.num_lanes // self.world
        rounds, rest = divmod(self.per_rank, num_lanes)
        mine = np.arange(2 * num_lanes) % num_lanes % num_workers == worker
        return rounds * int(mine[:num_lanes].sum()) + max(int(mine[n : n + rest].sum()) for n in range(num_lanes))

    def parts(
        self, start_step: int, worker: int, num_workers: int, slots: Sequence[torch.Tensor] = ()
    ) -> Iterator[Part]:
        """Of each step, the positions of every num_workers-th lane of the rank."""
        lanes: dict[int, Iterator[Decoded]] = {}
        skipped: list[tuple[str, str]] = []
        for step in itertools.count(start_step):
            positions = self.positions(step)
            owners = positions % self.plan.num_lanes // self.world % num_workers
            rows = np.flatnonzero(owners == worker)
            taken = []
            for position in positions[rows].tolist():
                lane = position % self.plan.num_lanes
                if lane not in lanes:
                    lanes[lane] = self._lane(position, skipped)
                taken.append(next(lanes[lane]))
            found = np.array([one.label for one in taken], np.int64)
            images, slot = [one.image for one in taken], step % len(slots) if slots else None
            if slot is not None:
                stack(images, slots[slot])
                made = None
            else:
                made = self._finished(images, positions[rows].tolist()) if taken else None
            yield Part(rows, made, found, slot, tuple(skipped))
            skipped.clear()

    def _finished(self, images: Sequence[Image], positions: Sequence[int]) -> torch.Tensor:
        if self.transform is None:
            return stack(images, torch.empty((len(images), *self.source.image_shape), dtype=torch.uint8))
        made = (
            transformed(self.transform, image, self.plan.seed, p) for image, p in zip(images, positions, strict=True)
        )
        return torch.stack(list(made))

    def _lane(self, position: int, skipped: list[tuple[str, str]]) -> Iterator[Decoded]:
        """A lane's samples from a position on, without end; numbers are not filled in."""
        lost, hopeless = 0, max(_HOPELESS, 2 * self.plan.num_samples // self.plan.num_lanes)
        for raw in self._raws(position):
            try:
                if isinstance(raw, BadSampleError):
                    raise raw
                image, label = decode(self.source, raw, any_size=self.transform is not None)
            except BadSampleError as error:
                if not self.source.skip_bad:
                    raise
                skipped.append((error.reason, str(error)))
                lost += 1
                if lost >= hopeless:
                    raise DataError(f"{lost} bad samples one after the other; the last: {error}") from error
                continue
            for _ in range(lost + 1):
                yield Decoded(-1, image, label)
            lost = 0

    def _raws(self, position: int) -> Iterator[RawSample | BadSampleError]:
        """A lane's samples from a position on, shuffled, undecoded, without end."""
        lane, num_lanes = position % self.plan.num_lanes, self.plan.num_lanes
        for epoch in itertools.count(position // self.plan.num_samples):
            begin, start, count = self.plan.lane_range(lane, epoch)
            order = self.plan.order(lane, epoch, count)[max(0, position - begin) // num_lanes :]
            if not len(order):
                continue
            needed = np.zeros(count, bool)
            needed[order] = True
            waiting: dict[int, RawSample | BadSampleError] = {}
            first = int(order.min())
            found = zip(range(first, count), self._read(epoch, start + first, count - first), strict=True)
            for wanted in order.tolist():
                while wanted not in waiting:
                    place, raw = next(found)
                    if needed[place]:
                        waiting[place] = raw
                if wanted == order[-1]:
                    for _ in found:  # to the end, where a tar that is too long shows
                        pass
                yield waiting.pop(wanted)

    def _read(self, epoch: int, start: int, count: int) -> Iterator[RawSample | BadSampleError]:
        for tar, first, last in self.plan.pieces(epoch, start, count):
            yield from read_range(self.source, tar, first, last)
