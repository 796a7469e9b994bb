"""Frozen features of every block, of any number of backbones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.augment.device import normalise
from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.data.examples import Examples, Pixels, Progress
from fracgen.train.data.skipped import Skipped, SkippedExample, read_good
from fracgen.train.data.subsets import evenly_spaced
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
    progress: Progress | None = None,
) -> Features:
    """Features of all examples, in their order.

    Every image is decoded once for all backbones of one size and normalisation.

    crop: share of the shorter side that is visible. amp: what the backbones compute in, None for float32.
    Raises BadSampleError for an image that cannot be decoded, unless `skip_bad`; DataError where none can.
    """
    groups: dict[object, list[int]] = {}
    for index, backbone in enumerate(backbones):
        groups.setdefault((backbone.size, backbone.mean, backbone.std), []).append(index)
    by_block: dict[int, Sequence[Tensor]] = {}
    for number, members in enumerate(groups.values()):

        def report(done: int, of_all: int, number: int = number) -> None:
            if progress is not None:
                progress(number * of_all + done, len(groups) * of_all)

        group = [backbones[index] for index in members]
        one = _extract_group(group, examples, crop, batch_size, skip_bad, amp, report)
        by_block |= dict(zip(members, one.by_block, strict=True))
    return Features(by_block=[by_block[index] for index in sorted(by_block)], labels=one.labels, skipped=one.skipped)


def _extract_group(
    group: Sequence[Backbone],
    examples: Examples,
    crop: float,
    batch_size: int,
    skip_bad: bool,
    amp: torch.dtype | None,
    progress: Progress,
) -> Features:
    """Features of backbones that take the same input. A batch is one thread's work, from the files to the features."""
    transform = EvalTransform(size=group[0].size, crop=crop, mean=group[0].mean, std=group[0].std)
    starts = range(0, len(examples), batch_size)

    def read(number: int) -> Tensor:
        return transform(examples.open(number).convert("RGB"))

    def of_batch(start: int) -> tuple[list[int], list[list[Tensor]], list[SkippedExample]]:
        numbers = range(start, min(start + batch_size, len(examples)))
        good, images, bad = read_good(read, numbers, examples.describe, skip_bad=skip_bad)
        return good, [_block_features(each, torch.stack(images), amp) for each in group] if good else [], bad

    rows: list[list[Tensor]] = []
    numbers, skipped = list[int](), Skipped()
    for start, (good, features, bad) in zip(starts, thread_map(of_batch, starts, torch.get_num_threads()), strict=True):
        skipped.extend(bad)
        if features and not rows:
            rows = [[each.new_empty(len(examples), each.shape[1]) for each in blocks] for blocks in features]
        for blocks, of_blocks in zip(rows, features, strict=bool(features)):
            for block, each in zip(blocks, of_blocks, strict=True):
                block[len(numbers) : len(numbers) + len(good)] = each
        numbers += good
        progress(min(start + batch_size, len(examples)), len(examples))
    if not numbers:
        raise DataError(f"{examples.name}: no image of {len(examples)} can be decoded")
    return Features(
        by_block=[[block[: len(numbers)] for block in blocks] for blocks in rows],
        labels=torch.from_numpy(examples.labels[numbers]),
        skipped=skipped.counts,
    )


def read_images(
    backbone: Backbone, examples: Examples, count: int, *, shown: int, crop: float = 1.0, skip_bad: bool = False
) -> tuple[Tensor, list[Pixels]]:
    """(what the network sees of `count` evenly spaced examples, float32 (B, 3, size, size); pictures of the first few).

    shown: number of pictures, uint8 (size, size, 3); they are spread over the examples too. Raises BadSampleError for
    an image that cannot be decoded, unless `skip_bad`; DataError where none can.
    """
    transform = EvalTransform(size=backbone.size, crop=crop, mean=backbone.mean, std=backbone.std)
    first = evenly_spaced(len(examples), shown).tolist()
    numbers = [*first, *(each for each in evenly_spaced(len(examples), count).tolist() if each not in first)]
    good, images, _ = read_good(
        lambda number: transform.levels(examples.open(number).convert("RGB")),
        numbers[: max(count, shown)],
        examples.describe,
        skip_bad=skip_bad,
    )
    if not good:
        raise DataError(f"{examples.name}: no image of {len(numbers)} can be decoded")
    levels = torch.stack([torch.from_numpy(each.copy()) for each in images])
    pictures = [each.permute(1, 2, 0).numpy() for each in levels[:shown]]
    return normalise(levels, backbone.mean, backbone.std), pictures


def _block_features(backbone: Backbone, images: Tensor, amp: torch.dtype | None) -> list[Tensor]:
    """Features of each block, float32 (B, D) on the CPU. images: float32 (B, 3, size, size) on the CPU, normalised."""
    with torch.autocast(backbone.device.type, dtype=amp, enabled=amp is not None):
        return [each.cpu() for each in block_features(backbone, images.to(backbone.device))]
