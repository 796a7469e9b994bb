"""Some of many examples, class by class: which ones is a function of seed, purpose and labels."""

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.train.data.examples import Examples, Indices
from fracgen.train.seeding import generator

_PER_CLASS, _HOLD_OUT = 0, 1
"""What the draws of `generator(seed, "split", ...)` are for; purposes of `stratified_subset` begin at 2."""


def stratified_subset(labels: Indices, num: int, *, seed: int, purpose: int) -> Indices:
    """`num` of these, or all where they are fewer, ascending, int64: of each class its share, one of each first.

    labels: int64 (N,). purpose: 2 or more, by which one draw differs from another.
    """
    order = generator(seed, "split", purpose).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    position = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.where(position == 0, 0.0, (position + 0.5) / np.repeat(counts, counts))
    rank = np.empty(len(labels))
    rank[by_class] = share
    chosen = order[np.argsort(rank[order], kind="stable")][:num]
    return np.sort(chosen).astype(np.int64)


def evenly_spaced(num_examples: int, num: int) -> Indices:
    """`num` numbers below num_examples, or all where they are fewer, ascending and evenly spaced, int64."""
    num = min(num, num_examples)
    return np.arange(num) * num_examples // max(1, num)


def take_per_class(examples: Examples, per_class: int, *, seed: int) -> Examples:
    """`per_class` of each class; fewer are among more. Raises UsageError for a class that has fewer."""
    shuffled = _shuffled_classes(examples, seed, _PER_CLASS)
    for name, numbers in zip(examples.class_names, shuffled, strict=True):
        if len(numbers) < per_class:
            raise UsageError(f"{per_class} images per class: class {name!r} of {examples.name} has {len(numbers)}")
    return examples.subset(np.sort(np.concatenate([numbers[:per_class] for numbers in shuffled])))


def hold_out(examples: Examples, share: float, *, seed: int) -> tuple[Examples, Examples]:
    """(the rest, what is held out): of each class its share, rounded, 1 at least, but never its last image."""
    parts = [
        numbers[: min(max(1, round(share * len(numbers))), len(numbers) - 1)]
        for numbers in _shuffled_classes(examples, seed, _HOLD_OUT)
    ]
    held_out = np.sort(np.concatenate(parts))
    if not len(held_out):
        raise UsageError(
            f"{examples.name}: one image of each class, so none to choose on; give a validation split, or its share as "
            "0"
        )
    rest = np.setdiff1d(np.arange(len(examples)), held_out)
    return examples.subset(rest), examples.subset(held_out)


def _shuffled_classes(examples: Examples, seed: int, purpose: int) -> list[Indices]:
    return shuffled_classes(examples.labels, len(examples.class_names), seed, purpose)


def shuffled_classes(labels: Indices, num_classes: int, seed: int, *purpose: int) -> list[Indices]:
    """The numbers of each class, in an order that depends on seed, purpose, class and their count alone.

    labels: int64 (N,).
    """
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    members = np.split(order, ends[:-1])
    return [generator(seed, "split", *purpose, label).permutation(mine) for label, mine in enumerate(members)]
