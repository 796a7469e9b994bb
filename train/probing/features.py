"""Frozen features of every block, of any number of backbones."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.data.old.examplefeed import clean_batches
from fracgen.train.data.old.examples import Examples
from fracgen.train.data.old.samples import Skipped
from fracgen.train.probing.backbones import Backbone, block_features
from fracgen.train.probing.thread_map import thread_map


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features by backbone and block, float32 (N, D) on the CPU, and labels, int64 (N,).

    skipped: images that could not be decoded, by reason; they have no row.
    """

    by_block: Sequence[Sequence[Tensor]]
    labels: Tensor
    skipped: Counter[str]


def extract(
    backbones: Sequence[Backbone],
    examples: Examples,
    *,
    crop: float = 1.0,
    batch_size: int = 64,
    skip_bad: bool = False,
    amp: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of all examples, in their order.

    Every image is decoded once for all backbones of one size and normalisation. A batch is one thread's work, so that
    neither the number of threads nor the size of batches changes a feature by more than rounding.

    crop: share of the shorter side that is visible. amp: what the backbones compute in, None for float32.
    progress: is called with (images done, of all).
    Raises BadSampleError for an image that cannot be decoded, unless `skip_bad`; DataError where none can.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, backbone in enumerate(backbones):
        groups.setdefault((backbone.size, backbone.mean, backbone.std), []).append(index)
    by_block: list[list[Tensor]] = [[] for _ in backbones]
    labels, skipped = torch.empty(0, dtype=torch.int64), Skipped()
    for group, members in enumerate(groups.values()):
        first, skipped = backbones[members[0]], Skipped()
        batches = clean_batches(
            examples,
            EvalTransform(size=first.size, crop=crop, mean=first.mean, std=first.std),
            batch_size,
            skip_bad=skip_bad,
            skipped=skipped,
        )

        def features_of(batch: tuple[Tensor, Tensor], members: list[int] = members) -> tuple[list[Tensor], Tensor]:
            images, labels = batch
            return [each for index in members for each in _features(backbones[index], images, amp)], labels

        rows, row_labels, count = list[Tensor](), list[Tensor](), 0
        pairs = ((batch.images, batch.labels) for batch in batches)
        for features, batch_labels in thread_map(features_of, pairs, torch.get_num_threads()):
            rows = rows or [each.new_empty(len(examples), each.shape[1]) for each in features]
            for row, each in zip(rows, features, strict=True):
                row[count : count + len(each)] = each
            count += len(batch_labels)
            row_labels.append(batch_labels)
            if progress is not None:
                progress(group * len(examples) + count, len(groups) * len(examples))
        if not count:
            raise DataError(f"{examples.name}: no image of {len(examples)} can be decoded")
        labels = torch.cat(row_labels)
        blocks = iter([row[:count] for row in rows])
        for index in members:
            by_block[index] = [next(blocks) for _ in backbones[index].blocks]
    return Features(by_block=by_block, labels=labels, skipped=skipped.counts)


def _features(backbone: Backbone, images: Tensor, amp: torch.dtype | None) -> list[Tensor]:
    """Features of each block, float32 (B, D) on the CPU. images: float32 (B, 3, size, size), normalised, anywhere."""
    with torch.autocast(backbone.device.type, dtype=amp, enabled=amp is not None):
        return [each.cpu() for each in block_features(backbone, images.to(backbone.device))]
