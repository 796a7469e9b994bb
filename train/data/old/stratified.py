"""A few of many, class by class: which ones is a function of the seed, the purpose and the labels."""

import numpy as np
import numpy.typing as npt

from fracgen.train.seeding import generator

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]


def stratified(labels: Labels, num: int, *, seed: int, purpose: int) -> Indices:
    """`num` of these, or all where they are fewer, ascending, int64: of each class its share, one of each first.

    labels: int64 (N,). purpose: a number by which one draw differs from another.
    """
    order = generator(seed, "split", purpose).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.where(place == 0, 0.0, (place + 0.5) / np.repeat(counts, counts))
    rank = np.empty(len(labels))
    rank[by_class] = share
    chosen = order[np.argsort(rank[order], kind="stable")][:num]
    return np.sort(chosen).astype(np.int64)
