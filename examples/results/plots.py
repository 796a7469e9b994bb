"""Plots of results: accuracy by images a class, by length of fine-tuning, by arm; what makes a base fractal good."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import FEATURES, Study, base_points, mean, summarize

SHOWN = ("scratch", "impulse", "mimetic", "1p-frac", "impulse+1p-frac", "mimetic+1p-frac", "gaussian")
"""Arms in the plots of curves, in colours that are the same in all of them."""


def draw(studies: Mapping[str, Study], folder: Path) -> None:
    """Write the PNG files of the studies that were run."""
    from matplotlib.figure import Figure

    def save(name: str, figure: Figure) -> None:
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})

    folder.mkdir(exist_ok=True)
    if "equal-budget" in studies:
        study = studies["equal-budget"]
        figure = Figure(figsize=(6, 4), layout="constrained")
        _curves(figure.subplots(), study, "per_class", "training images a class")
        save("accuracy-by-images.png", figure)
        figure = Figure(figsize=(7, 0.7 + 0.34 * len(study.arms)), layout="constrained")
        _arms(figure.subplots(), study, per_class=100)
        save("accuracy-by-arm.png", figure)
    if "length" in studies:
        figure = Figure(figsize=(6, 4), layout="constrained")
        _curves(figure.subplots(), studies["length"], "steps", "steps of fine-tuning, 500 images a class")
        save("accuracy-by-steps.png", figure)
    if "bases" in studies and len(points := base_points(studies["bases"])) > 1:
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(1, len(FEATURES), sharey=True), FEATURES.items(), strict=True):
            factor = 1 if name == "contraction" else 100
            axes.plot([factor * point[name] for point in points], [point["gain"] for point in points], "o")
            axes.set_xlabel(label)
            axes.axhline(0, color="0.5", linewidth=0.8)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("gain over scratch, points")
        save("bases.png", figure)


def _curves(axes: Any, study: Study, quantity: str, label: str) -> None:
    for arm in (arm for arm in SHOWN if arm in study.arms):
        places = sorted({run[quantity] for run in study.select(arm)})
        summaries = [summarize(study, arm, **{quantity: place}) or {} for place in places]
        heights = [100 * each["mean"] for each in summaries]
        errors = [100 * (each["std_base_means"] or each["std_within"] or 0.0) for each in summaries]
        axes.errorbar(
            places,
            heights,
            errors,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.2,
            label=arm,
            color=f"C{SHOWN.index(arm)}",
        )
    axes.set_xscale("log")
    axes.set_xticks(ticks := sorted({run[quantity] for run in study.runs}), [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel="accuracy on the test images, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _arms(axes: Any, study: Study, **where: Any) -> None:
    """A dot for each base (each seed, for an arm without a set), the mean as a bar, 95 % interval of the difference."""
    for place, arm in enumerate(reversed(study.arms)):
        summary = summarize(study, arm, study.arms[0], **where)
        if summary is None:
            continue
        by_base = [list(each.values()) for each in summary["accuracies"].values()]
        values = [100 * each for each in (map(mean, by_base) if len(by_base) > 1 else by_base[0])]
        interval = (summary["difference"] or {}).get("interval") or (0.0, 0.0)
        half_width = 50 * (interval[1] - interval[0])
        axes.errorbar(mean(values), place, xerr=half_width, fmt="|", color="k", markersize=12, capsize=3, linewidth=1)
        axes.plot(values, [place] * len(values), "o", markersize=4, alpha=0.7, color="C3" if "1p-frac" in arm else "C0")
    axes.set_yticks(range(len(study.arms)), list(reversed(study.arms)))
    axes.set_xlabel("accuracy on the test images, %; bars: 95 % interval of the difference from scratch")
    axes.grid(alpha=0.3, axis="x")
