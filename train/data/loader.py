"""Batches to train on and to evaluate on, from examples that are kept in memory or streamed."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.shards.urls import is_url
from fracgen.train import cli
from fracgen.train.data.choose import choose
from fracgen.train.data.examples import Examples, Indices, Progress
from fracgen.train.data.opening import open_examples
from fracgen.train.data.pieces import EvalPieces, TrainPieces, Transform
from fracgen.train.data.pixels import RESIZE, InMemory, PixelReader, Source, load_into_memory, sample_shape
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.settings import BatchSettings, LoaderSettings, ShardsSettings
from fracgen.train.data.skipped import Skipped
from fracgen.train.data.workers import make_batches
from fracgen.train.ranks import Ranks

_EVAL_BATCH = 500


class Batch(NamedTuple):
    """What a rank trains on in one step.

    images: uint8 (B, C, H, W) on the device, or what the transform makes of them: float (B, 3, S, S).
    labels: int64 (B,), or uint8 (B, number of classes) where an image has several, on the device. positions: the
    numbers of these samples in the whole run, from 0, on the host.
    """

    images: Tensor
    labels: Tensor
    positions: Indices


class TrainLoader:
    """Batches without end, of a set that is kept in memory or streamed; both give the same.

    A batch depends on examples, seed and step alone; each rank has its slice of it. Position p of the run has the
    example that `Sampler` says. One that cannot be used, and is skipped, leaves its place to the next that can.

    mode: "memory" or "stream". reason: why, one line for the screen. transformed: whether the images of a batch have
    been through the transform. num_samples: of an epoch, repeats apart. shape: of the decoded images.
    source: what `eval_batches` takes to look at this set.
    """

    def __init__(
        self,
        examples: Examples,
        settings: LoaderSettings,
        *,
        seed: int,
        ranks: Ranks,
        transform: Transform | None = None,
        others: Sequence[Examples] = (),
        progress: Progress | None = None,
    ) -> None:
        """Decode the set, or only look at a few of its images.

        transform: of single images, in workers: with `augment` timm, and for streamed images that may differ in size.
        others: sets that are kept in memory too where this one is (see `eval_source`). progress: called in decoding.
        Raises UsageError for a batch that does not fit the ranks, or settings that the set does not allow; DataError
        for bad data.
        """
        self._per_rank, self._examples = check_batch(settings, ranks), examples
        self.batch_size, self.num_samples = settings.batch_size, len(examples)
        self._settings, self._ranks, self._skipped = settings, ranks, Skipped()
        shapes = [sample_shape(each, settings.resize) for each in (examples, *others)]
        sets = list(zip(map(len, (examples, *others)), shapes, strict=True))
        choice = ranks.agree(choose(sets, settings, ranks.device, has_transform=transform is not None))
        self.shape, self.mode, self.reason = shapes[0], choice.mode, choice.reason
        any_size = self.mode == "stream" and transform is not None and not self.shape.one_size
        self.transformed = any_size or (settings.augment == "timm" and transform is not None)
        self._transform = transform if self.transformed else None
        different = -(-self.batch_size // settings.repeated_augmentation)  # images of a batch
        repeats = max(settings.repeats, -(-different // len(examples)))
        if repeats > settings.repeats:
            self.reason += f"; each image comes {repeats} times an epoch, as a batch has more than there are"
        self._sampler = Sampler(
            len(examples),
            seed,
            repeats,
            settings.shuffle,
            examples.block,
            copies=settings.repeated_augmentation,
            batch_size=self.batch_size,
        )
        mend = RESIZE + (", or --loader stream" if transform is not None and self.mode == "memory" else "")
        self.source: Source = PixelReader(examples, self.shape, settings.resize, any_size, mend, settings.squeeze)
        if self.mode == "memory":
            self.source = self._load(self.source, self._skipped, progress)
            if not self.transformed:
                self.source = self.source.to(ranks.device)

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """The rank's batches from step `start_step` on, without end; closing the iterator ends its workers.

        Raises DataError for a bad example or tar, which it names, and where a worker dies; UsageError for an example
        that needs another option.
        """
        if isinstance(self.source, InMemory) and not self.transformed:
            for positions in map(_as_array, self._rows(start_step)):
                yield Batch(*self.source.take(self._sampler.numbers(positions)), positions)
            return
        pieces = TrainPieces(
            source=self.source, transform=self._transform, skip_bad=self._settings.skip_bad, sampler=self._sampler
        )
        batches = make_batches(
            pieces,
            self._rows(start_step),
            min(self._settings.workers, self._per_rank),
            batch_size=self._per_rank,
            device=self._ranks.device,
            skipped=self._skipped,
        )
        with contextlib.closing(batches):
            for rows, (images, labels) in zip(self._rows(start_step), batches, strict=False):
                yield Batch(images, labels, _as_array(rows))

    def describe(self) -> dict[str, str]:
        """Rows for the screen: the set, the cache where it is at a URL, and how it is loaded."""
        notes = {"cache": self._examples.cache_note} if self._examples.cache_note else {}
        return {"data": f"{self._examples}; {self.shape}", **notes, "loader": self.reason}

    def _rows(self, start_step: int) -> Iterator[range]:
        """The rank's positions in each step."""
        for step in itertools.count(start_step):
            start = step * self.batch_size + self._ranks.rank * self._per_rank
            yield range(start, start + self._per_rank)

    def skipped(self) -> Counter[str]:
        """Examples left out so far by any rank, by reason. Every rank must call it."""
        return self._skipped.over_ranks(self._ranks)

    def eval_source(self, examples: Examples, *, skipped: Skipped, progress: Progress | None = None) -> Source:
        """Another set as `eval_batches` takes it: kept in memory where this one is."""
        shape = sample_shape(examples, self._settings.resize)
        any_size = self.mode == "stream" and not shape.one_size
        reader = PixelReader(examples, shape, self._settings.resize, any_size, squeeze=self._settings.squeeze)
        return self._load(reader, skipped, progress) if self.mode == "memory" else reader

    def _load(self, reader: PixelReader, skipped: Skipped, progress: Progress | None) -> InMemory:
        return load_into_memory(reader, skip_bad=self._settings.skip_bad, skipped=skipped, progress=progress)


def examples_of(settings: ShardsSettings) -> Examples:
    """The set that a run is pre-trained on. Raises what `open_examples` raises."""
    return open_examples(
        settings.shards,
        num_classes=settings.num_classes,
        skip_bad=settings.loader.skip_bad,
        cache=settings.cache,
        progress=cli.bar("fetching" if is_url(settings.shards) else "opening"),
    )


def open_shards(
    settings: ShardsSettings, *, seed: int, ranks: Ranks, transform: Transform | None
) -> tuple[Examples, TrainLoader]:
    """The set that a run is pre-trained on, and its batches. transform: as `TrainLoader` has it.

    Raises what `open_examples` and `TrainLoader` raise.
    """
    examples = examples_of(settings)
    loader = TrainLoader(
        examples,
        settings.loader,
        seed=seed,
        ranks=ranks,
        transform=transform,
        progress=cli.bar("decoding"),
    )
    return examples, loader


def check_batch(settings: BatchSettings, ranks: Ranks) -> int:
    """Samples of a batch that one rank has. Raises UsageError where the ranks cannot share it."""
    if settings.batch_size % ranks.world:
        raise UsageError(
            f"--batch-size {settings.batch_size}: not divisible by {ranks.world} ranks; give a multiple of "
            f"{ranks.world}"
        )
    return settings.batch_size // ranks.world


def _as_array(rows: range) -> Indices:
    return np.arange(rows.start, rows.stop)


def eval_batches(
    source: Source,
    *,
    transform: Callable[[Tensor], Tensor],
    picture_transform: Transform,
    ranks: Ranks,
    numbers: Indices | None = None,
    batch_size: int = _EVAL_BATCH,
    workers: int = 0,
    skip_bad: bool = False,
    skipped: Skipped | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) on the device, every example once over all ranks, in order; of a rank, every world-th.

    transform: of uint8 batches (B, C, H, W) on the device, where images have one size. picture_transform: of RGB
    pictures where they may differ, in workers (0: a thread); it draws nothing. Both give float (B, 3, S, S).
    numbers: of the examples that are looked at, ascending; all by default. skipped: takes the bad ones, which are left
    out where `skip_bad` is given; else BadSampleError or DataError names the first.
    """
    mine = (np.arange(len(source)) if numbers is None else numbers)[ranks.rank :: ranks.world]
    if isinstance(source, InMemory):
        good = mine[np.isin(mine, source.numbers)]
        for start in range(0, len(good), batch_size):
            images, labels = source.take(good[start : start + batch_size])
            yield transform(images.to(ranks.device)), labels.to(ranks.device)
        return
    batches = make_batches(
        EvalPieces(
            source=source, transform=picture_transform if source.any_size else None, skip_bad=skip_bad, numbers=mine
        ),
        (range(len(mine))[start : start + batch_size] for start in range(0, len(mine), batch_size)),
        min(workers, batch_size, len(mine)),
        batch_size=min(batch_size, len(mine)),
        device=ranks.device,
        skipped=Skipped() if skipped is None else skipped,
    )
    with contextlib.closing(batches):
        for images, labels in batches:
            yield (images if source.any_size else transform(images)), labels
