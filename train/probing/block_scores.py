"""Accuracy of a linear classifier and of the nearest neighbours on the features of each block."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.probing.classifiers import Standardizer, fit_best, predict_by_neighbours
from fracgen.train.probing.thread_map import thread_map


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """Features of one backbone by block, float32 (N, D) and (M, D), and labels, int64 (N,) and (M,) on the device.

    held_out: bool (N,) on the device, the training images on which the penalty of the linear classifier is chosen.
    """

    train: Sequence[Tensor]
    test: Sequence[Tensor]
    train_labels: Tensor
    test_labels: Tensor
    held_out: Tensor
    num_classes: int


def score_blocks(data: ProbeData, names: Sequence[str], *, k: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(for each block: accuracy on the test images, 0 to 1, of both classifiers; seconds by classifier).

    names: of the blocks. k: number of nearest neighbours. Raises DataError for features that are not finite.
    """
    device = data.train_labels.device
    for name, features in zip(names, data.train, strict=True):
        if not features.isfinite().all():
            raise DataError(f"features of {name} are not finite; try --precision fp32")

    def accuracy(predictions: Tensor) -> float:
        return int((predictions == data.test_labels).sum()) / len(data.test_labels)

    def linear(block: int) -> tuple[float, float]:
        train, test = data.train[block].to(device), data.test[block].to(device)
        model, l2 = fit_best(train, data.train_labels, data.held_out, data.num_classes)
        return accuracy(model.predict(Standardizer.fit(train)(test))), l2

    def knn(block: int) -> float:
        train, test = data.train[block].to(device), data.test[block].to(device)
        standardize = Standardizer.fit(train)
        return accuracy(
            predict_by_neighbours(standardize(train), data.train_labels, standardize(test), data.num_classes, k=k)
        )

    blocks, threads = range(len(names)), torch.get_num_threads() if device.type == "cpu" else 1
    began = time.perf_counter()
    linear_scores = list(thread_map(linear, blocks, threads))
    halfway = time.perf_counter()
    knn_scores = list(thread_map(knn, blocks, threads))
    seconds = {"linear": halfway - began, "knn": time.perf_counter() - halfway}
    scores = [
        {"block": name, "dim": features.shape[1], "linear": linear_score, "knn": knn_score, "l2": l2}
        for name, features, (linear_score, l2), knn_score in zip(
            names, data.train, linear_scores, knn_scores, strict=True
        )
    ]
    return scores, seconds
