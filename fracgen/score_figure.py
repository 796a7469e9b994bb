"""The figure of a score: distributions of its measures."""

import io
from typing import Any

import numpy as np

from fracgen.score import Score

_PANELS = {
    "dimension": ("box-counting dimension", 1),
    "fill_rate": ("fill rate, %", 100),
    "bytes_per_pixel": ("bits a pixel as PNG", 8),
    "nearest_correlation": ("correlation, most alike", 1),
}
_BINS = 30


def draw_score(score: Score) -> bytes:
    """PNG bytes of six panels: four histograms, lacunarity by box size, and how well classes are told apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    *panels, lacunarity, told_apart = figure.subplots(2, 3).flat
    measures = score.measures()
    for axes, (name, (label, factor)) in zip(panels, _PANELS.items(), strict=True):
        values = factor * measures[name]
        axes.hist(values[~np.isnan(values)], bins=_BINS, color="C0")
        axes.set(xlabel=label, ylabel="images")
    _lacunarity(lacunarity, score)
    _told_apart(told_apart, score)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()


def _lacunarity(axes: Any, score: Score) -> None:
    """Mean and spread by box size, of the images that have the most common sizes of boxes."""
    kinds = [image.boxes for image in score.images]
    boxes = max(set(kinds), key=lambda kind: (kinds.count(kind), kind))
    curves = np.array([image.lacunarity for image in score.images if image.boxes == boxes])
    curves = curves[~np.isnan(curves).any(axis=1)]
    if len(curves) and boxes:
        axes.errorbar(boxes, curves.mean(axis=0), curves.std(axis=0), marker="o", capsize=2, linewidth=1)
        axes.set_xscale("log", base=2)
    axes.set(xlabel="side of the gliding box, pixels", ylabel="lacunarity")


def _told_apart(axes: Any, score: Score) -> None:
    """Around a base, AUC by Delta; else accuracy by image."""
    curves = {
        "augmented views": [(each.delta, each.views) for each in score.neighbourhood],
        "shapes, under fresh masks": [(each.delta, each.shapes) for each in score.neighbourhood],
    }
    if score.neighbourhood:
        for label, points in curves.items():
            known = [(delta, told.auc) for delta, told in points if told is not None]
            axes.plot(*zip(*known, strict=True), marker="o", linewidth=1, label=label) if known else None
        axes.axhline(0.5, color="0.5", linewidth=0.8)
        axes.set_xscale("log")
        axes.set(xlabel="Delta, around the base", ylabel="told apart, AUC", ylim=(0.45, 1.02))
        axes.legend()
    elif len(score.accuracies):
        axes.hist(100 * score.accuracies, bins=_BINS, range=(0, 100), color="C0")
        axes.set(xlabel="told apart, % of an image's views", ylabel="images")
