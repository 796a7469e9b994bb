"""The figure of a report, from its JSON alone: by images a class, by pre-training, by variant, by step."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fracgen.train.engine.run_folder import write_figure
from fracgen.train.experiments.tables import MEASURES, section_title


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of panels, two a row; nothing where there is no result.

    Where there are several numbers of images: accuracy by them, mean and standard deviation of the bases (of the seeds,
    where there is one base), each base a point. Where pre-training logged it: each base's accuracy by how many
    perturbations it told apart. For each number of images a class: accuracy by variant, with a point for each base and
    a speck for each run; differences from the first variant with their intervals of 95 %. Then training curves.
    Raises DataError where the file cannot be written.
    """
    sections = [section for section in report["sections"] if section["measures"]]
    if not sections:
        return
    from matplotlib.figure import Figure

    panels: list[Callable[[Any], None]] = []
    if len(sections) > 1:
        panels.append(partial(_draw_by_images, sections=sections))
    if any("clean_accuracy" in each for bases in report.get("pretraining", {}).values() for each in bases.values()):
        panels.append(partial(_draw_by_pretraining, report=report, section=sections[0]))
    for section in sections:
        panels.append(partial(_draw_variants, section=section, title=section_title(report, section)))
        panels.append(partial(_draw_differences, section=section))
    panels += [partial(_draw_curves, section=section) for section in sections]
    num_rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(12, 3.8 * num_rows), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        panel(figure.add_subplot(num_rows, 2, number))
    write_figure(path, figure)


def _last_measure(section: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    measure, summaries = list(section["measures"].items())[-1]
    return measure, summaries


def _base_means(summary: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy of each base in percent."""
    by_base = summary["accuracies"].items()
    return {base: 100 * sum(each.values()) / len(each) for base, each in by_base if each}


def _spread(summary: Mapping[str, Any]) -> float:
    std = summary["std_base_means"] if summary["n_bases"] > 1 else summary["std_within"]
    return 100 * (std or 0.0)


def _with_results(summaries: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(number, name, summary) of the variants that have results."""
    for number, (name, summary) in enumerate(summaries.items()):
        if summary["mean"] is not None:
            yield number, name, summary


def _draw_by_images(axes: Any, sections: list[Any]) -> None:
    names = list(_last_measure(sections[0])[1])
    for number, name in enumerate(names):
        points = [(position, _last_measure(each)[1][name]) for position, each in enumerate(sections)]
        points = [(position, summary) for position, summary in points if summary["mean"] is not None]
        shift, color = 0.3 * ((number + 0.5) / len(names) - 0.5), f"C{number % 10}"
        if points:
            places, means = (
                [position + shift for position, _ in points],
                [100 * summary["mean"] for _, summary in points],
            )
            spreads = [_spread(summary) for _, summary in points]
            axes.errorbar(places, means, spreads, color=color, marker="o", markersize=4, capsize=2, label=name)
        for position, summary in points:
            bases = list(_base_means(summary).values())
            axes.plot([position + shift] * len(bases), bases, ".", color=color, alpha=0.5, markersize=5)
    labels = ["all" if each["per_class"] is None else f"{each['per_class']:,}" for each in sections]
    axes.set_xticks(range(len(sections)), labels)
    axes.set(xlabel="training images a class", ylabel=f"accuracy, {MEASURES[_last_measure(sections[0])[0]]}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_by_pretraining(axes: Any, report: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    """Accuracy with the first number of images by pre-training's own score."""
    measure, summaries = _last_measure(section)
    for number, name, summary in _with_results(summaries):
        scores = {base: each.get("clean_accuracy") for base, each in report["pretraining"].get(name, {}).items()}
        points = [
            (100 * scores[base], mean) for base, mean in _base_means(summary).items() if scores.get(base) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=f"C{number % 10}", markersize=5, label=name)
        else:
            axes.axhline(100 * summary["mean"], color=f"C{number % 10}", linewidth=1, linestyle="--", label=name)
    axes.set(
        title=section_title(report, section),
        xlabel="told apart in pre-training, % of whole images",
        ylabel=f"accuracy, {MEASURES[measure]}, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_variants(axes: Any, section: Mapping[str, Any], title: str) -> None:
    measure, summaries = _last_measure(section)
    for number, _, summary in _with_results(summaries):
        axes.bar(number, 100 * summary["mean"], color=f"C{number % 10}", alpha=0.4)
        means = _base_means(summary)
        for position, (base, mean) in enumerate(means.items()):
            at = number + 0.5 * ((position + 0.5) / len(means) - 0.5)
            runs = [100 * value for value in summary["accuracies"][base].values()]
            axes.plot([at] * len(runs), runs, ".", color="0.4", markersize=3)
            axes.plot(at, mean, "D", color=f"C{number % 10}", markersize=5, markeredgecolor="k", markeredgewidth=0.5)
    _name_ticks(axes, summaries)
    axes.set(title=title, ylabel=f"accuracy, {MEASURES[measure]}, %")


def _draw_differences(axes: Any, section: Mapping[str, Any]) -> None:
    _, summaries = _last_measure(section)
    axes.axhline(0, color="k", linewidth=1)
    for number, _, summary in _with_results(summaries):
        if (difference := summary["difference"]) is None:
            continue
        color, units = f"C{number % 10}", difference["by_base" if len(difference["by_base"]) > 1 else "by_seed"]
        axes.plot([number] * len(units), [100 * value for value in units.values()], ".", color=color, alpha=0.5)
        axes.plot(number, 100 * difference["mean"], "o", color=color)
        if difference["interval"] is not None:
            axes.plot([number, number], [100 * end for end in difference["interval"]], color=color, linewidth=1.5)
    _name_ticks(axes, summaries)
    axes.set(title=f"difference from {next(iter(summaries))}, intervals of 95 %", ylabel="points of accuracy")


def _name_ticks(axes: Any, summaries: Mapping[str, Any]) -> None:
    axes.set_xticks(range(len(summaries)), list(summaries), rotation=30 if len(summaries) > 4 else 0, fontsize=8)
    axes.set_xlim(-0.5, len(summaries) - 0.5)
    axes.grid(alpha=0.3, axis="y")


def _draw_curves(axes: Any, section: Mapping[str, Any]) -> None:
    for number, (name, rows) in enumerate(section["curves"]["variants"].items()):
        if rows:
            steps, means, stds = zip(*rows, strict=True)
            marker = "." if len(steps) == 1 else ""  # a line of one point is not seen
            axes.plot(steps, means, color=f"C{number % 10}", linewidth=1, marker=marker, label=name)
            low = [mean - (std or 0.0) for mean, std in zip(means, stds, strict=True)]
            high = [mean + (std or 0.0) for mean, std in zip(means, stds, strict=True)]
            axes.fill_between(steps, low, high, color=f"C{number % 10}", alpha=0.15, linewidth=0)
    axes.set(
        title=f"{section['per_class']} training images a class" if section["per_class"] else "all training images",
        xlabel="step of fine-tuning",
        ylabel=section["curves"]["quantity"],
    )
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)
