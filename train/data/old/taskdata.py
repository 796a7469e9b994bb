"""A labelled set as fine-tuning takes it: augmented batches of train, and every image of the other splits once."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train import cli as console
from fracgen.train.augment.device import center, timm_clean_transform, timm_transform
from fracgen.train.config import Augmentation, Feed
from fracgen.train.data.old.choose import Choice, choose_feed
from fracgen.train.data.old.examplefeed import Once
from fracgen.train.data.old.resident import Resident
from fracgen.train.data.old.samples import Skipped
from fracgen.train.data.old.splits import ExampleFeed, Examples, Held, Needed, Splits, clean_batches, hold, needed
from fracgen.train.ranks import Ranks

_CLEAN_BATCH = 500

Split = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What a run reads.

    batches: of train. choice: how they come, and why. transformed: whether they are augmented as they come.
    """

    splits: Splits
    batches: Resident | ExampleFeed
    choice: Choice
    transformed: bool
    augment: Augmentation
    eval_crop: float
    feed: Feed
    held: dict[Split, Held] = field(repr=False)
    _skipped: Mapping[str, Once] = field(repr=False)

    def clean(self, split: Split, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's images of a split, float32 (B, 3, size, size) resized, cropped, normalised, and labels (B,)."""
        size, stats = self.augment.size, (self.augment.mean, self.augment.std)
        if split in self.held:
            held = self.held[split]
            mine = torch.arange(len(held.labels))[ranks.rank :: ranks.world]
            for few in torch.split(mine, _CLEAN_BATCH) if len(mine) else ():
                images = held.images[few].to(ranks.device)
                yield center(images, size, self.eval_crop, *stats), held.labels[few].to(ranks.device)
            return
        found = clean_batches(
            _there(self.splits, split),
            timm_clean_transform(size, self.eval_crop, *stats),
            batch_size=_CLEAN_BATCH,
            rank=ranks.rank,
            world=ranks.world,
            num_workers=max(1, self.feed.workers),
            device=ranks.device,
            skip_bad=self.feed.skip_bad,
            skipped=self._skipped[split],
        )
        yield from ((batch.images, batch.labels) for batch in found)

    def skipped(self, ranks: Ranks) -> dict[str, int]:
        """What any rank could not read and left out, by reason, each file once. Every rank must ask."""
        met = {f"{split}: {file}": why for split, once in self._skipped.items() for file, why in once.met.items()}
        return dict(self.splits.skipped + Counter(ranks.union(met).values()))


def open_task(
    splits: Splits, *, augment: Augmentation, feed: Feed, eval_crop: float, seed: int, ranks: Ranks
) -> TaskData:
    """Keep the set in memory, decoded, where it fits and has one size; else decode and augment it in workers.

    Raises UsageError for settings that the set does not allow, DataError for bad images.
    """
    there = [each for each in (splits.train, splits.val, splits.test) if each is not None]
    needs = [needed(each, resize=feed.resize) for each in there]
    whole = Needed(sum(each.num_bytes for each in needs), all(each.one_size for each in needs))
    if feed.mode == "auto" and not whole.one_size:
        choice = Choice("stream", "stream: images differ in size; timm's pipeline decodes and augments them in workers")
    else:  # without workers only what is kept in memory can be augmented
        choice = choose_feed(whole, "resident" if feed.mode == "auto" and not feed.workers else feed.mode, ranks.device)
    choice = ranks.agree(choice)
    skipped = {"train": Once(), "val": Once(), "test": Once()}
    transformed = feed.augment == "timm" or choice.mode == "stream"
    if transformed and feed.workers == 0:
        raise UsageError("--workers 0: images are decoded and augmented in workers; give 1 or more, or --resize N")
    common: dict[str, Any] = {
        "batch_size": feed.batch_size,
        "seed": seed,
        "transform": timm_transform(augment) if transformed else None,
        "num_workers": feed.workers,
        "repeats": feed.repeats,
        "rank": ranks.rank,
        "world": ranks.world,
        "device": ranks.device,
    }
    held: dict[Split, Held] = {}
    batches: Resident | ExampleFeed
    if choice.mode == "resident":
        batches = Resident.from_arrays(*_hold(splits.train, feed, skipped["train"]), **common)
        if splits.val is not None:
            held["val"] = _hold(splits.val, feed, skipped["val"])
        if splits.test is not None:
            held["test"] = _hold(splits.test, feed, skipped["test"])
    else:
        batches = ExampleFeed(splits.train, **common, skip_bad=feed.skip_bad, skipped=skipped["train"])
    return TaskData(
        splits=splits,
        batches=batches,
        choice=choice,
        transformed=transformed,
        augment=augment,
        eval_crop=eval_crop,
        feed=feed,
        held=held,
        _skipped=skipped,
    )


def _hold(examples: Examples, feed: Feed, skipped: Skipped) -> Held:
    return hold(examples, resize=feed.resize, skip_bad=feed.skip_bad, skipped=skipped, progress=console.bar("decoding"))


def _there(splits: Splits, split: Split) -> Examples:
    examples = splits.val if split == "val" else splits.test
    assert examples is not None
    return examples
