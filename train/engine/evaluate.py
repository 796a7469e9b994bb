"""Accuracy of a classifier: every image counted once over all ranks, with the confusion of classes."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fracgen.shards.files import write_atomically
from fracgen.train.engine.run_folder import write_figure
from fracgen.train.ranks import Ranks

FIRST_OF_SEVERAL = "share of images whose first guess is one of their classes"
"""What `Scores.top1` is where an image has several labels."""
_TOP = 5
_MOST_NAMES, _MOST_NUMBERS = 40, 15
"""Most classes whose names fit on the axes of the figure, and whose shares fit into its cells."""
_INCHES, _INCHES_PER_CLASS = (4.0, 12.0), 0.35
"""Least and greatest side of the figure, and what each class adds to it."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Counts over all images of all ranks.

    right, in_top5: whose class, or one of whose, is the first guess, among the first five; in_top5 is None up to 5
    classes.
    confusion: int64 (C, C), images by true class (row) and first guess (column); (0, 0) where it was not counted.
    """

    images: int
    right: int
    in_top5: int | None
    confusion: npt.NDArray[np.int64]

    @property
    def top1(self) -> float:
        """Share of images whose first guess is right."""
        return self.right / max(self.images, 1)

    @property
    def top5(self) -> float | None:
        """Share of images whose class is among the first five guesses."""
        return None if self.in_top5 is None else self.in_top5 / max(self.images, 1)

    @property
    def mean_per_class(self) -> float:
        """Mean over the classes that have images of the share of each whose first guess is right."""
        counts = self.confusion.sum(1)
        return float((self.confusion.diagonal()[counts > 0] / counts[counts > 0]).mean()) if counts.any() else 0.0

    def value(self, metric: str) -> float:
        """By a metric's name: "accuracy" or "mean-per-class"."""
        return {"accuracy": self.top1, "mean-per-class": self.mean_per_class}[metric]

    def per_class(self, names: Sequence[str]) -> dict[str, float | None]:
        """Share of each class's images whose first guess is right; None where it has none."""
        counts = self.confusion.sum(1)
        right = self.confusion.diagonal()
        return {name: round(float(right[n] / counts[n]), 6) if counts[n] else None for n, name in enumerate(names)}

    def named(self, split: str, weights: str, metric: str = "accuracy") -> dict[str, float]:
        """As an outcome has it: "test_accuracy_best", the metric; with more than 5 classes "test_top5_best" too."""
        values = {"accuracy": self.top1, metric.replace("-", "_"): self.value(metric), "top5": self.top5}
        return {f"{split}_{name}_{weights}": round(value, 6) for name, value in values.items() if value is not None}

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values for results.json."""
        return {
            "images": self.images,
            "top1": round(self.top1, 6),
            "top5": None if self.top5 is None else round(self.top5, 6),
            "mean_per_class": round(self.mean_per_class, 6),
            "per_class": self.per_class(names),
        }


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    amp: torch.dtype | None,
    ranks: Ranks,
    confusion: bool = True,
) -> Scores:
    """Scores of a model over the batches of all ranks; every rank calls it.

    batches: float images (B, 3, H, W) and labels, int64 (B,), or uint8 (B, num_classes) where an image has several;
    each image on one rank only. confusion: whether to count the matrix, of single labels, which takes
    8 x num_classes^2 bytes on the device.
    """
    counts = torch.zeros(3, dtype=torch.int64, device=ranks.device)  # one tensor, to be summed over ranks at once
    num_images, num_right, num_in_top5 = counts.unbind()  # views, counted up in place
    matrix = torch.zeros(num_classes**2 if confusion else 0, dtype=torch.int64, device=ranks.device)
    training = model.training
    model.eval()
    for buffer in model.buffers():  # of batch norms each rank has its own statistics
        ranks.share(buffer)
    with torch.no_grad():
        for images, labels in batches:
            with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
                logits = model(images)
            guesses = logits.argmax(1)
            num_images += len(labels)
            num_right += _hits(guesses[:, None], labels).sum()
            if num_classes > _TOP:
                num_in_top5 += _hits(logits.topk(_TOP, 1).indices, labels).any(1).sum()
            if confusion:
                matrix += torch.bincount(labels * num_classes + guesses, minlength=len(matrix))
    model.train(training)
    images_in_all, right, in_top5 = ranks.sum(counts).tolist()
    side = num_classes if confusion else 0
    return Scores(
        images=images_in_all,
        right=right,
        in_top5=in_top5 if num_classes > _TOP else None,
        confusion=ranks.sum(matrix).cpu().numpy().reshape(side, side),
    )


def _hits(guesses: Tensor, labels: Tensor) -> Tensor:
    """Which guesses (B, k) are the class of their image, or one of its classes: bool (B, k)."""
    return labels.gather(1, guesses) > 0 if labels.ndim == 2 else guesses == labels[:, None]


def write_confusion(scores: Scores, names: Sequence[str], path: Path) -> None:
    """The confusion matrix as CSV: a line for each true class, a column for each first guess."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["class", *names])
    lines.writerows([name, *row] for name, row in zip(names, scores.confusion.tolist(), strict=True))
    write_atomically(path, text.getvalue())


def draw_confusion(scores: Scores, names: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix as a PNG: each row's shares, so that a row sums to one."""
    from matplotlib.figure import Figure

    names = [name.encode("utf-8", "replace").decode() for name in names]  # folders may have any bytes as names
    shares = scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)
    side = min(_INCHES[1], max(_INCHES[0], 2 + _INCHES_PER_CLASS * len(names)))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="first guess", ylabel="class", title=title)
    if len(names) <= _MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    if len(names) <= _MOST_NUMBERS:
        for row, column in np.ndindex(*shares.shape):
            colour = "white" if shares[row, column] < 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, size=8)
    figure.colorbar(shown, label="share of the class", shrink=0.8)
    write_figure(path, figure)
