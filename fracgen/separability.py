"""How well images are told apart in pixels: nearest neighbours between views, near duplicates.

All sums are of whole numbers that floats hold exactly, so that no number depends on threads or on the library that
multiplies matrices.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Pairs = list[tuple[Bytes, Bytes]]
"""Two views of each image, uint8 (N, size, ...) each."""

_ROWS, _COLUMNS = 256, 1024
"""Of a block of products. 1024 products of bytes less 128 add up to 2^24 at most, which float32 holds exactly."""


@dataclass(frozen=True, kw_only=True)
class Separability:
    """How well a class is told from others by the squared distance of pixels, between two views of each image.

    accuracy: share of views whose nearest neighbour among the other views, one an image, is of their class, 0 to 1;
    where several are as near, the share of those. error: its standard error over images. chance: what it is where all
    images are equal. auc: how often a view of the class, the own image's included, is nearer than one of another class,
    ties counted half; 0.5 by chance. across_images: the accuracy without the own image's view, over classes with
    several images, which is 1 - N3 of Ho and Basu (2002); None where there is no such class. pairs: of views that each
    image has.
    """

    images: int
    classes: int
    size: int
    pairs: int
    accuracy: float
    error: float
    chance: float
    auc: float
    across_images: float | None


def separability(pairs: Pairs, labels: Labels, pool: Executor) -> tuple[Separability, Floats]:
    """(how well the classes are told apart, the accuracy of each image (N,)).

    labels: (N,), of two classes at least.
    """
    tallies = [np.concatenate(list(_tallies(queries, views, labels, pool)), axis=1) for queries, views in pairs]
    accuracies, aucs, across = np.mean(tallies, axis=0)
    of_class = np.unique(labels, return_inverse=True, return_counts=True)
    num_same = of_class[2][of_class[1]]
    result = Separability(
        images=len(labels),
        classes=len(of_class[0]),
        size=pairs[0][0].shape[1],
        pairs=len(pairs),
        accuracy=float(accuracies.mean()),
        error=float(accuracies.std(ddof=1) / np.sqrt(len(labels))),
        chance=float(num_same.mean() / len(labels)),
        auc=float(aucs.mean()),
        across_images=float(across[num_same > 1].mean()) if (num_same > 1).any() else None,
    )
    return result, accuracies


def _tallies(queries: Bytes, views: Bytes, labels: Labels, pool: Executor) -> Iterator[Floats]:
    """Of each block of queries (3, n): accuracy, AUC, accuracy without the own image's view."""

    def tally(rows: slice) -> Floats:
        distances, same = squared_distances(queries[rows], views), labels[rows, None] == labels
        accuracies = _share_of_nearest(distances, same)
        aucs = np.array([_auc(row[mask], row[~mask]) for row, mask in zip(distances, same, strict=True)])
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        return np.stack([accuracies, aucs, _share_of_nearest(distances, same)])

    return _by_rows(tally, len(queries), pool)


def _auc(of_class: Floats, of_others: Floats) -> float:
    """How often one of the first is less than one of the second, ties counted half."""
    others = np.sort(of_others)
    beaten = 2 * len(others) - np.searchsorted(others, of_class, "left") - np.searchsorted(others, of_class, "right")
    return float(beaten.mean() / (2 * len(others)))


def _share_of_nearest(distances: Floats, same: npt.NDArray[np.bool_]) -> Floats:
    """Of the nearest in each row, the share that is of the same class: ties count in part."""
    nearest = distances == distances.min(axis=1, keepdims=True)
    share: Floats = (nearest & same).sum(axis=1) / nearest.sum(axis=1)
    return share


def nearest_correlations(images: Bytes, pool: Executor) -> Floats:
    """Of each image, the highest correlation of its pixels with those of another, (N,): 0 for one without contrast.

    images: uint8 (N, ...), of one shape.
    """
    shifted, count = _shifted(images), images[0].size
    sums = np.array([row.sum(dtype=np.int64) for row in shifted], np.float64)
    squares = np.array([_square(row) for row in shifted], np.float64)
    deviations = np.sqrt(count * squares - sums**2)

    def highest(rows: slice) -> Floats:
        covariance = count * _products(shifted[rows], shifted) - sums[rows, None] * sums
        scale = deviations[rows, None] * deviations
        correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
        correlation[np.arange(len(correlation)), np.arange(rows.start, rows.start + len(correlation))] = -1
        nearest: Floats = correlation.max(axis=1)
        return np.where(deviations[rows] > 0, nearest, 0)

    return np.concatenate(list(_by_rows(highest, len(images), pool)))


def squared_distances(one: Bytes, other: Bytes) -> Floats:
    """Squared Euclidean distances of pixels, exact: (n, m) float64.

    one, other: uint8 (n, ...) and (m, ...), of one shape each, of at most 2^36 pixels.
    """
    first, second = _shifted(one), _shifted(other)
    squares = [np.array([_square(row) for row in rows], np.float64) for rows in (first, second)]
    return squares[0][:, None] + squares[1] - 2 * _products(first, second)


def _shifted(images: Bytes) -> npt.NDArray[np.int8]:
    """Levels less 128, (N, pixels)."""
    return (images.reshape(len(images), -1) ^ np.uint8(128)).view(np.int8)


def _square(row: npt.NDArray[np.int8]) -> int:
    return int(np.square(row, dtype=np.int32).sum(dtype=np.int64))


def _products(one: npt.NDArray[np.int8], other: npt.NDArray[np.int8]) -> Floats:
    """Scalar products of rows, exact, (n, m) float64."""
    total = np.zeros((len(one), len(other)))
    for first in range(0, one.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        total += one[:, columns].astype(np.float32) @ other[:, columns].astype(np.float32).T
    return total


def _by_rows(function: Callable[[slice], Floats], count: int, pool: Executor) -> Iterator[Floats]:
    """A function of each block of rows, by threads, in order."""
    blocks = [slice(first, min(first + _ROWS, count)) for first in range(0, count, _ROWS)]
    return iter(pool.map(function, blocks))
