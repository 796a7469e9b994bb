"""How well a model tells classes apart: every image counted once, in one confusion matrix over all ranks."""

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

from fracgen.train.engine.run_folder import write_figure, write_text
from fracgen.train.ranks import Ranks

_TOP = 5
_NAMED = 40
"""Classes whose names fit on the axes of the picture."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """confusion: int64 (C, C), images by true class (row) and first guess (column). in_top5: None up to 5 classes."""

    confusion: npt.NDArray[np.int64]
    in_top5: int | None

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of images whose first guess is right."""
        return float(self.confusion.trace() / max(self.images, 1))

    @property
    def top5(self) -> float | None:
        """Share of images whose class is among the first five guesses."""
        return None if self.in_top5 is None else self.in_top5 / max(self.images, 1)

    def per_class(self, names: Sequence[str]) -> dict[str, float | None]:
        """Share of each class's images that are told right; None where it has none."""
        counts = self.confusion.sum(1)
        right = self.confusion.diagonal()
        return {name: round(float(right[n] / counts[n]), 6) if counts[n] else None for n, name in enumerate(names)}

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "images": self.images,
            "top1": round(self.top1, 6),
            "top5": None if self.top5 is None else round(self.top5, 6),
            "per_class": self.per_class(names),
        }


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    amp: torch.dtype | None,
    ranks: Ranks,
) -> Scores:
    """Of all ranks' batches together: float images (B, 3, H, W) and labels int64 (B,), each image on one rank only."""
    counts = torch.zeros(num_classes * num_classes + 1, dtype=torch.int64, device=ranks.device)
    was = model.training
    model.eval()
    for buffer in model.buffers():  # of batch norms each rank has its own statistics
        ranks.share(buffer)
    with torch.no_grad():
        for images, labels in batches:
            with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
                logits = model(images)
            counts[:-1] += torch.bincount(labels * num_classes + logits.argmax(1), minlength=num_classes**2)
            if num_classes > _TOP:
                counts[-1] += (logits.topk(_TOP, 1).indices == labels[:, None]).sum()
    model.train(was)
    found = ranks.sum(counts).cpu().numpy()
    return Scores(
        confusion=found[:-1].reshape(num_classes, num_classes),
        in_top5=int(found[-1]) if num_classes > _TOP else None,
    )


def write_confusion(scores: Scores, names: Sequence[str], path: Path) -> None:
    """The confusion matrix as CSV: a line for each true class, a column for each first guess."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["class", *names])
    lines.writerows([name, *row] for name, row in zip(names, scores.confusion.tolist(), strict=True))
    write_text(path, text.getvalue())


def draw_confusion(scores: Scores, names: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix as a PNG: each row's shares, so that a row sums to one."""
    from matplotlib.figure import Figure

    names = [name.encode("utf-8", "replace").decode() for name in names]  # of any folder
    shares = scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)
    side = min(12.0, max(4.0, 2 + 0.35 * len(names)))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="first guess", ylabel="class", title=title)
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    if len(names) <= 15:
        for row, column in np.ndindex(*shares.shape):
            colour = "white" if shares[row, column] < 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, size=8)
    figure.colorbar(shown, label="share of the class", shrink=0.8)
    write_figure(path, figure)
