"""Plots of results: accuracy by images a class and by steps of fine-tuning, gain by arm, what goes with a gain."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import FEATURES, Study, base_points, joined, mean, summarize

SHOWN = ("scratch", "impulse", "mimetic", "1p-frac", "impulse+1p-frac", "ofdb")
"""Arms in the plots of curves, in colours that are the same in all of them."""


def draw(
    studies: Mapping[str, Study], folder: Path, probed: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> None:
    """Write the PNG files of the studies that were run. probed: nets by arm, as `probed_arms` gives them."""
    from matplotlib.figure import Figure

    def save(name: str, figure: Figure) -> None:
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})

    folder.mkdir(exist_ok=True)
    if "equal-budget" in studies:
        study = studies["equal-budget"]
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        _curves(figure.subplots(), study, "per_class", "training images a class, 300 steps of fine-tuning")
        save("accuracy-by-images.png", figure)
        figure = Figure(figsize=(7, 0.8 + 0.32 * len(study.arms)), layout="constrained")
        _arms(figure.subplots(), study, per_class=100)
        save("gain-by-arm.png", figure)
        figure = Figure(figsize=(7, 4), layout="constrained")
        _told_apart(figure.subplots(), study, per_class=100)
        save("gain-by-told-apart.png", figure)
    lengths = {count: joined(studies, count) for count in (500, 100)} if "equal-budget" in studies else {}
    if "converged" in studies:
        lengths[50] = studies["converged"]
    if lengths := {count: study for count, study in lengths.items() if study.runs}:
        figure = Figure(figsize=(4.2 * len(lengths), 4), layout="constrained")
        panels = figure.subplots(1, len(lengths), squeeze=False).flat
        for axes, (count, study) in zip(panels, lengths.items(), strict=True):
            _curves(axes, study, "steps", f"steps of fine-tuning, {count} images a class")
        save("accuracy-by-steps.png", figure)
    if "bases" in studies and len(points := base_points(studies["bases"])) > 1:
        figure = Figure(figsize=(7, 4.8), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(2, 3, sharey=True).flat, FEATURES.items(), strict=True):
            factor = 100 if "%" in label else 1
            axes.plot([factor * point[name] for point in points], [point["gain"] for point in points], "o")
            axes.set_xlabel(label)
            axes.axhline(0, color="0.5", linewidth=0.8)
            axes.grid(alpha=0.3)
        figure.supylabel("gain over scratch, points", fontsize="medium")
        save("bases.png", figure)

    if probed:
        figure = Figure(figsize=(7, 4), layout="constrained")
        _probes(figure.subplots(), probed)
        save("probes.png", figure)


def _probes(axes: Any, probed: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Accuracy of a linear classifier by block: means over nets, and their standard deviation."""
    for number, (arm, nets) in enumerate(probed.items()):
        columns = [[100 * each for each in column] for column in zip(*(net["linear"] for net in nets), strict=True)]
        x = [block + 1 + 0.02 * (number - len(probed) / 2) for block in range(len(columns))]
        errors = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
        style = {"color": f"C{number % 10}", "marker": "os^D"[number % 4], "linestyle": "--" if number > 9 else "-"}
        axes.errorbar(x, list(map(mean, columns)), errors, markersize=4, capsize=2, linewidth=1, label=arm, **style)
    axes.set_xticks(range(1, len(columns) + 1))
    axes.set(xlabel="block", ylabel="linear classifier, % of the test images")
    axes.grid(alpha=0.3)
    axes.figure.legend(loc="outside right upper", fontsize=8)


def _curves(axes: Any, study: Study, quantity: str, label: str) -> None:
    """Means, and standard deviations between bases (seeds, for an arm without a set), of arms run at several places.

    Arms stand a little beside one another, so that their bars can be told apart; each is named at its end.
    """
    ends = {}
    places = sorted({run[quantity] for run in study.runs})
    for arm in (arm for arm in SHOWN if arm in study.arms):
        summaries = [summarize(study, arm, **{quantity: place}) for place in places]
        run = [(number, summary) for number, summary in enumerate(summaries) if summary is not None]
        x = [number + 0.02 * (SHOWN.index(arm) - 2) for number, _ in run]
        y = [100 * summary["mean"] for _, summary in run]
        errors = [100 * (summary["std_base_means"] or summary["std_within"] or 0.0) for _, summary in run]
        color = f"C{SHOWN.index(arm)}"
        axes.errorbar(x, y, errors, marker="o", markersize=4, capsize=3, linewidth=1.2, color=color)
        ends[arm] = run[-1][0], y[-1]
    axes.margins(y=0.08)
    bottom, top = axes.get_ylim()
    height = bottom
    for arm, (place, y_end) in sorted(ends.items(), key=lambda end: end[1][1]):  # a line of text apart, at least
        height = max(y_end, height + 0.042 * (top - bottom))
        axes.text(place + 0.1, height, arm, va="center", fontsize=8, color=f"C{SHOWN.index(arm)}")
    axes.set_xticks(range(len(places)), [f"{place:,}" for place in places])
    axes.set_xlim(-0.15, len(places) - 1 + 0.31 * len(places))
    axes.set(xlabel=label, ylabel="accuracy on the test images, %")
    axes.grid(alpha=0.3)


def _arms(axes: Any, study: Study, **where: Any) -> None:
    """Gains over the first arm, the highest on top: a dot for each base (seed, without a set), mean and interval."""
    summaries = {arm: summarize(study, arm, study.arms[0], **where) for arm in study.arms[1:]}
    gains = {arm: summary["difference"] for arm, summary in summaries.items() if summary and summary["difference"]}
    for place, (arm, gain) in enumerate(ordered := sorted(gains.items(), key=lambda each: each[1]["mean"])):
        has_bases = len(gain["by_base"]) > 1
        values = [100 * value for value in gain["by_base" if has_bases else "by_seed"].values()]
        low, high = (100 * each for each in gain["interval"] or (gain["mean"], gain["mean"]))
        axes.plot([low, high], [place, place], color="0.3", linewidth=1)
        axes.plot(mean(values), place, "|", color="k", markersize=12)
        color = "C3" if "1p-frac" in arm else "C0" if has_bases else "C2"
        axes.plot(values, [place] * len(values), "o", markersize=4, alpha=0.7, color=color)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(ordered)), [arm for arm, _ in ordered])
    axes.set_xlabel("gain over scratch in points: bases (without a set: seeds), mean, 95 % interval")
    axes.grid(alpha=0.3, axis="x")


def _told_apart(axes: Any, study: Study, **where: Any) -> None:
    """Each pre-trained net: how many classes of its set it told apart, and what it gained over the first arm."""
    clean_accuracy = {(run["variant"], run["base"]): 100 * run["clean_accuracy"] for run in study.pretraining}
    for number, arm in enumerate(dict.fromkeys(arm for arm, _ in clean_accuracy)):
        summary = summarize(study, arm, study.arms[0], **where)
        if summary is None or summary["difference"] is None:
            continue
        gains = {int(base): 100 * gain for base, gain in summary["difference"]["by_base"].items()}
        x = [clean_accuracy[arm, base] for base in gains]
        axes.plot(x, list(gains.values()), "os^D"[number % 4], markersize=6, alpha=0.8, color=f"C{number}", label=arm)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel=FEATURES["clean_accuracy"], ylabel="gain over scratch, points")
    axes.grid(alpha=0.3)
    axes.figure.legend(loc="outside right upper", fontsize=8)
