"""A set that is kept in memory: decoded once, drawn by a permutation an epoch."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.data.old.feeding import Part, check_batch, check_repeats, check_workers, cores, feed
from fracgen.train.data.old.samples import Batch, Skipped, Transform, decode_first, first_numbers, transformed
from fracgen.train.data.old.source import Progress, Source
from fracgen.train.seeding import generator

Indices = npt.NDArray[np.int64]


class Resident:
    """All images, uint8 (N, C, H, W), on the device; every batch is drawn from them there.

    Position p of the run is entry p % N of the permutation of epoch p // N, so batches straddle epochs and each epoch
    has every sample once. A rank takes its slice of the global batch. The images stay on the host where there is a
    transform, which workers apply.
    images, labels: the set, in the order of its tars; labels int64 (N,). numbers: which samples these are: all, but
    for bad ones that were skipped. skipped: those, counted by reason.
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
        repeats: int = 1,
        transform: Transform | None = None,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Decode the whole set.

        batch_size: global, all ranks together. repeats: how often each sample comes in an epoch, each time augmented
        anew, which lets a batch be larger than the set (Hoffer et al. 2020's repeated augmentation). num_workers:
        processes for the transform, at least 1 with one.
        progress: called now and then while decoding.
        Raises UsageError for a batch that does not fit set and ranks, or images that do not fit in memory or are not
        of one size; DataError for bad data.
        """
        check_repeats(repeats)
        check_batch(source.num_samples * repeats, batch_size, rank, world)
        check_workers(transform, num_workers)
        self._skipped, self._counts = Skipped(), source.counts
        arrays = _load(source, self._skipped, progress)
        self._set_up(
            *arrays,
            batch_size=batch_size,
            seed=seed,
            device=device,
            rank=rank,
            world=world,
            repeats=repeats,
            transform=transform,
            num_workers=num_workers,
        )

    @classmethod
    def from_arrays(cls, images: torch.Tensor, labels: torch.Tensor, numbers: Indices, **options: Any) -> Self:
        """A set that is decoded already: uint8 (N, C, H, W), int64 (N,); and which samples these are, ascending (N,).

        options: as the constructor's, batch_size, seed and device at least. Raises UsageError as it does.
        """
        self = cls.__new__(cls)
        self._skipped, self._counts = Skipped(), (int(numbers[-1]) + 1 if len(numbers) else 0,)
        self._set_up(images, labels, numbers, **options)
        return self

    def _set_up(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        numbers: Indices,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        transform: Transform | None = None,
        num_workers: int = 0,
    ) -> None:
        check_repeats(repeats)
        check_workers(transform, num_workers)
        self._per_rank = check_batch(len(labels) * repeats, batch_size, rank, world)
        self.batch_size, self.seed, self.rank, self.world, self.device = batch_size, seed, rank, world, device
        self.numbers, self._repeats, self._transform, self._num_workers = numbers, repeats, transform, num_workers
        home = torch.device("cpu") if transform else device
        try:
            self.images, self.labels = images.to(home), labels.to(home)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"{images.nbytes} bytes of images do not fit on {device}; give feed.mode=stream"
            ) from error

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return len(self.numbers)

    @property
    def skipped(self) -> Counter[str]:
        """Samples left out, by reason."""
        return self._skipped.counts

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """The rank's batches from step `start_step` on, without end; each depends on source, seed, step and rank."""
        order = Order(
            self.num_samples,
            self._repeats,
            seed=self.seed,
            batch_size=self.batch_size,
            per_rank=self._per_rank,
            rank=self.rank,
        )
        if self._transform is not None:
            work = _TransformWork(self.images, self.labels, order, self._transform, self.seed)
            made = feed(work, start_step, self._num_workers, device=self.device, skipped=self._skipped)
            for step, (images, labels) in zip(itertools.count(start_step), made, strict=False):
                yield Batch(images, labels, order.positions(step))
            return
        for step in itertools.count(start_step):
            positions = order.positions(step)
            chosen = torch.from_numpy(order.indices(positions))
            if self.device.type == "cuda":
                chosen = chosen.pin_memory().to(self.device, non_blocking=True)
            yield Batch(self.images.index_select(0, chosen), self.labels.index_select(0, chosen), positions)

    def clean(
        self, num: int | None = None, *, batch_size: int | None = None, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """`num` samples (all), untransformed, in a fixed order: of each tar its first, as many as its share.

        uint8 batches of at most `batch_size`; positions are the samples' numbers in the set. rank, world: for every
        world-th of them, from `rank` on.
        """
        num = sum(self._counts) if num is None else min(num, sum(self._counts))
        numbers = np.concatenate(first_numbers(self._counts, num))[rank::world]
        places = np.searchsorted(self.numbers, numbers[np.isin(numbers, self.numbers)])
        size = batch_size or self._per_rank
        for start in range(0, len(places), size):
            few = places[start : start + size]
            chosen = torch.from_numpy(few).to(self.images.device)
            images, labels = self.images.index_select(0, chosen), self.labels.index_select(0, chosen)
            yield Batch(images.to(self.device), labels.to(self.device), self.numbers[few])


def _load(source: Source, skipped: Skipped, progress: Progress | None) -> tuple[torch.Tensor, torch.Tensor, Indices]:
    """(images, labels, numbers) of the good samples."""
    num = source.num_samples
    try:
        images = torch.empty((num, *source.image_shape), dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise UsageError(f"{source.num_bytes} bytes of images do not fit in memory; give feed.mode=stream") from None
    places, labels, numbers = images.numpy(), np.empty(num, np.int64), np.empty(num, np.int64)
    good = 0
    for number, image, label in decode_first(source, num, skipped, threads=cores()):
        places[good] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        labels[good], numbers[good] = label, number
        good += 1
        if progress is not None and (good % 256 == 0 or good == num):
            progress(good, num)
    if not good:
        raise DataError(f"{source.name}: no sample of {num} can be used ({dict(skipped.counts)})")
    return images[:good], torch.from_numpy(labels[:good]), numbers[:good]


class Order:
    """Which samples a rank's batches hold: entry p % N of the permutation of epoch p // N at position p of the run."""

    def __init__(self, num_samples: int, repeats: int, *, seed: int, batch_size: int, per_rank: int, rank: int) -> None:
        self._num_samples, self._num, self._seed = num_samples, num_samples * repeats, seed
        self._batch_size, self._per_rank, self._rank = batch_size, per_rank, rank
        self._permutations: dict[int, Indices] = {}

    def positions(self, step: int) -> Indices:
        """Positions of a step."""
        start = step * self._batch_size + self._rank * self._per_rank
        return np.arange(start, start + self._per_rank)

    def indices(self, positions: Indices) -> Indices:
        """The sample at each position, as a place in the set."""
        epochs = positions // self._num
        found = np.empty(len(positions), np.int64)
        needed = {int(epoch): self._permutation(int(epoch)) for epoch in (epochs[0], epochs[-1])}
        self._permutations = needed
        for epoch, permutation in needed.items():
            there = epochs == epoch
            found[there] = permutation[positions[there] % self._num]
        return found % self._num_samples

    def _permutation(self, epoch: int) -> Indices:
        known = self._permutations.get(epoch)
        return known if known is not None else generator(self._seed, "order", epoch).permutation(self._num)


class _TransformWork(NamedTuple):
    """The transform over a resident set, in workers, which share its memory."""

    images: torch.Tensor
    labels: torch.Tensor
    order: Order
    transform: Transform
    seed: int

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
        images, labels = self.images.permute(0, 2, 3, 1).numpy(), self.labels.numpy()
        images = images[..., 0] if images.shape[-1] == 1 else images
        for step in itertools.count(start_step):
            positions = self.order.positions(step)
            rows = np.arange(worker, len(positions), num_workers)
            indices = self.order.indices(positions)[rows]
            made = [
                transformed(self.transform, images[index], self.seed, int(position))
                for index, position in zip(indices, positions[rows], strict=True)
            ]
            yield Part(rows, torch.stack(made) if made else None, labels[indices])
