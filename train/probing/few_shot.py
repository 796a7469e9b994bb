"""Accuracy from a few training images of each class, with its spread over which ones they are.

Images are drawn several times by the seed; a draw of more images has those of fewer. Nothing but the drawn images is
used: features are standardised by them, a linear classifier is fitted to them with one fixed penalty, as there is no
image to choose one on, and the nearest of them vote, as many as there are of a class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.data.examples import Indices
from fracgen.train.data.subsets import shuffled_classes
from fracgen.train.probing.classifiers import Standardizer, fit_logistic, predict_by_neighbours
from fracgen.train.probing.thread_map import thread_map

_FEW_SHOT = 5
"""Purpose of draws by `shuffled_classes`."""
L2 = 0.01
"""Penalty of the linear classifier."""


def check_shots(labels: Indices, class_names: Sequence[str], shots: int) -> None:
    """Raise UsageError, with its name, for a class of fewer than `shots` images. labels: int64 (N,)."""
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < shots:
        name, count = class_names[int(counts.argmin())], int(counts.min())
        raise UsageError(f"--shots {shots}: class {name!r} has {count} of the chosen training images; raise --images")


def draw_rows(labels: Tensor, class_names: Sequence[str], *, shots: int, seed: int, draw: int) -> Tensor:
    """The rows of one draw, `shots` of each class, int64 (shots x classes,). labels: int64 (N,), on the CPU.

    Raises UsageError for a class that has fewer images.
    """
    check_shots(labels.numpy(), class_names, shots)
    by_class = shuffled_classes(labels.numpy(), len(class_names), seed, _FEW_SHOT, draw)
    return torch.from_numpy(np.sort(np.concatenate([rows[:shots] for rows in by_class])))


def score_few_shot(
    train: Tensor,
    test: Tensor,
    train_labels: Tensor,
    test_labels: Tensor,
    class_names: Sequence[str],
    *,
    shots: Sequence[int],
    draws: int,
    seed: int,
    k: int,
) -> list[dict[str, Any]]:
    """For each number of shots: accuracies of both classifiers on the test images, 0 to 1, by draw.

    train, test: features of one block on the device, float32 (N, D) and (M, D); labels: int64 (N,) and (M,) there. k:
    neighbours at most. Raises UsageError for a class with too few images.
    """
    on_cpu, num_classes = train_labels.cpu(), len(class_names)
    rows_of = {
        (each, draw): draw_rows(on_cpu, class_names, shots=each, seed=seed, draw=draw)
        for each in shots
        for draw in range(draws)
    }

    def accuracies(case: tuple[int, int]) -> tuple[float, float]:
        rows = rows_of[case].to(train.device)
        few, labels = train[rows], train_labels[rows]
        standardize = Standardizer.fit(few)
        features, queries = standardize(few), standardize(test)
        linear = fit_logistic(features, labels, num_classes, l2=L2).predict(queries)
        voters = min(k, case[0])
        neighbours = predict_by_neighbours(features, labels, queries, num_classes, k=voters)
        return _accuracy(linear, test_labels), _accuracy(neighbours, test_labels)

    threads = torch.get_num_threads() if train.device.type == "cpu" else 1
    scores = dict(zip(rows_of, thread_map(accuracies, rows_of, threads), strict=True))
    return [
        {
            "shots": each,
            "linear": _summary([scores[each, draw][0] for draw in range(draws)]),
            "knn": _summary([scores[each, draw][1] for draw in range(draws)]),
        }
        for each in shots
    ]


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return int((predictions == labels).sum()) / len(labels)


def _summary(accuracies: Sequence[float]) -> Mapping[str, Any]:
    """Mean and standard deviation (of a sample) over draws, and each accuracy."""
    return {
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies, ddof=1)),
        "draws": list(accuracies),
    }
