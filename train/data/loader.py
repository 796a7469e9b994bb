"""Batches to train on and to evaluate on, from examples that are kept in memory or streamed."""

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.shards.files import num_cores
from fracgen.train.data.choose import Choice, choose_mode
from fracgen.train.data.examples import Examples, ImageShape, Indices, Progress
from fracgen.train.data.in_memory import InMemory, Source, load_into_memory, read_all
from fracgen.train.data.pieces import EvalPieces, TrainPieces
from fracgen.train.data.pixels import PixelReader, Transform, sample_shape
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.data.skipped import Skipped
from fracgen.train.data.workers import make_batches
from fracgen.train.ranks import Ranks

_EVAL_BATCH = 500
_RESIZE = "give --resize N to bring all to N x N"


class Batch(NamedTuple):
    """What a rank trains on in one step.

    images: uint8 (B, C, H, W) on the device, or what the transform makes of them: float (B, 3, S, S).
    labels: int64 (B,) on the device. positions: the numbers of these samples in the whole run, from 0, on the host.
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
        beside: Sequence[Examples] = (),
        progress: Progress | None = None,
    ) -> None:
        """Decode the set, or only look at a few of its images.

        transform: of single images, in workers: with `augment` timm, and for streamed images that may differ in size.
        beside: sets that are kept in memory too where this one is (see `eval_source`). progress: called in decoding.
        Raises UsageError for a batch that does not fit the ranks, or settings that the set does not allow; DataError
        for bad data.
        """
        self._per_rank = check_batch(settings, ranks)
        self.batch_size, self.num_samples = settings.batch_size, len(examples)
        self._settings, self._ranks, self._skipped = settings, ranks, Skipped()
        shapes = [sample_shape(each, settings.resize) for each in (examples, *beside)]
        num_bytes = sum(len(each) * shape.num_bytes for each, shape in zip((examples, *beside), shapes, strict=True))
        choice = ranks.agree(_choose(shapes, num_bytes, settings, transform, ranks))
        self.shape, self.mode, self.reason = shapes[0], choice.mode, choice.reason
        any_size = self.mode == "stream" and transform is not None and not _one_size(self.shape, settings)
        self.transformed = any_size or (settings.augment == "timm" and transform is not None)
        self._transform = transform if self.transformed else None
        repeats = max(settings.repeats, -(-self.batch_size // len(examples)))
        if repeats > settings.repeats:
            self.reason += f"; each image comes {repeats} times an epoch, as a batch has more than there are"
        self._sampler = Sampler(len(examples), seed, repeats, settings.shuffle, examples.block)
        mend = _RESIZE + (", or --loader stream" if transform is not None and self.mode == "memory" else "")
        self.source: Source = PixelReader(examples, self.shape, settings.resize, any_size, mend)
        if self.mode == "memory":
            self.source = self._load(self.source, self._skipped, progress)
            if self._transform is None:
                self.source = self.source.to(ranks.device)

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """The rank's batches from step `start_step` on, without end; closing the iterator ends its workers.

        Raises DataError for a bad example or tar, which it names, and where a worker dies; UsageError for an example
        that needs another option.
        """
        if isinstance(self.source, InMemory) and self._transform is None:
            return self._from_memory(self.source, start_step)
        return self._from_workers(start_step)

    def _from_memory(self, held: InMemory, start_step: int) -> Generator[Batch, None, None]:
        device = held.images.device
        for rows in self._rows(start_step):
            positions = np.arange(rows.start, rows.stop)
            chosen = torch.from_numpy(held.rows[self._sampler.numbers(positions)])
            if device.type == "cuda":
                chosen = chosen.pin_memory().to(device, non_blocking=True)
            yield Batch(held.images.index_select(0, chosen), held.labels.index_select(0, chosen), positions)

    def _from_workers(self, start_step: int) -> Generator[Batch, None, None]:
        slot_shape = None if self.transformed else (self.shape.channels, self.shape.height, self.shape.width)
        pieces = TrainPieces(self.source, self._sampler, self._transform, self._settings.skip_bad, slot_shape)
        workers = min(self._settings.workers, self._per_rank)
        made = make_batches(pieces, self._rows(start_step), workers, device=self._ranks.device, skipped=self._skipped)
        for rows, (images, labels) in zip(self._rows(start_step), made, strict=False):
            yield Batch(images, labels, np.arange(rows.start, rows.stop))

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
        any_size = self.mode == "stream" and not _one_size(shape, self._settings)
        reader = PixelReader(examples, shape, self._settings.resize, any_size, _RESIZE)
        return self._load(reader, skipped, progress) if self.mode == "memory" else reader

    def _load(self, reader: PixelReader, skipped: Skipped, progress: Progress | None) -> InMemory:
        return load_into_memory(reader, skip_bad=self._settings.skip_bad, skipped=skipped, progress=progress)


def check_batch(settings: LoaderSettings, ranks: Ranks) -> int:
    """Samples of a batch that one rank has. Raises UsageError where the ranks cannot share it."""
    if settings.batch_size % ranks.world:
        raise UsageError(
            f"--batch-size {settings.batch_size}: not divisible by {ranks.world} ranks; give a multiple of "
            f"{ranks.world}"
        )
    return settings.batch_size // ranks.world


def _one_size(shape: ImageShape, settings: LoaderSettings) -> bool:
    """Whether it is certain that all images have one size."""
    return settings.resize > 0 or not (shape.differing or shape.sampled)


def _choose(
    shapes: Sequence[ImageShape],
    num_bytes: int,
    settings: LoaderSettings,
    transform: Transform | None,
    ranks: Ranks,
) -> Choice:
    """Raises UsageError for sets of mixed sizes that cannot be had as the settings say."""
    differing = next((shape.differing for shape in shapes if shape.differing), "")
    mode, reason, advice = settings.mode, "by --loader", "give --loader stream"
    if differing and (transform is None or mode == "memory" or not settings.workers):
        mends = [_RESIZE]
        if transform is not None:
            mends.append("--loader stream" if mode == "memory" else "--workers 1 or more, which augment each by itself")
        raise UsageError(f"images differ in size: {differing}; {', or '.join(mends)}")
    if differing and mode == "auto":
        return Choice("stream", "stream: images differ in size; timm's pipeline decodes and augments them in workers")
    if (
        mode == "auto"
        and not settings.workers
        and transform is not None
        and not all(_one_size(shape, settings) for shape in shapes)
    ):
        # without workers, images that may differ in size can only be loaded, which shows if they do
        mode, reason, advice = "memory", "as there are no workers", f"give --workers 1 or more, or {_RESIZE}"
    on_host = settings.augment == "timm" and transform is not None
    return choose_mode(num_bytes, mode, ranks.device, on_host=on_host, reason=reason, advice=advice)


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
    skipped = Skipped() if skipped is None else skipped
    mine = (np.arange(len(source)) if numbers is None else numbers)[ranks.rank :: ranks.world]
    if isinstance(source, InMemory):
        good = source.rows[mine[np.isin(mine, source.numbers)]]
        for start in range(0, len(good), batch_size):
            rows = torch.from_numpy(good[start : start + batch_size]).to(source.images.device)
            images, labels = source.images.index_select(0, rows), source.labels.index_select(0, rows)
            yield transform(images.to(ranks.device)), labels.to(ranks.device)
    elif source.any_size:
        pieces = EvalPieces(source.examples, mine, picture_transform, skip_bad)
        steps = (range(len(mine))[start : start + batch_size] for start in range(0, len(mine), batch_size))
        workers = min(workers, batch_size, len(mine))
        yield from make_batches(pieces, steps, workers, device=ranks.device, skipped=skipped)
    else:
        samples = read_all(source, mine, skip_bad=skip_bad, skipped=skipped, threads=num_cores())
        while few := list(itertools.islice(samples, batch_size)):
            pixels = torch.from_numpy(np.stack([pixels for _, pixels, _ in few]))
            images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
            yield transform(images.to(ranks.device)), torch.tensor([label for *_, label in few]).to(ranks.device)
