"""The figure of a study, from study.json alone: by images a class, by variant, by pre-training, by step."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fracgen.train.engine.run_folder import write_figure
from fracgen.train.experiments import tables
from fracgen.train.experiments.report import section_title


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of rows of two panels; nothing where there is no result.

    First row: accuracy by images a class, mean and standard deviation of the bases (of the seeds, where there is one
    base), each base a point; and each base's accuracy by how many perturbations pre-training told apart. Then a row
    for each number of images a class: accuracy by variant, with a point for each base and a speck for each run; and
    differences from the first variant with their intervals of 95 %. Last row: training curves.
    Raises DataError where the file cannot be written.
    """
    sections = [section for section in report["sections"] if section["measures"]]
    if not sections:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8 * (len(sections) + 1 + (len(sections) + 1) // 2)), layout="constrained")
    rows = figure.subplots(len(sections) + 1 + (len(sections) + 1) // 2, 2, squeeze=False)
    _draw_by_images(rows[0, 0], report, sections)
    _draw_by_pretraining(rows[0, 1], report, sections)
    for section, (left, right) in zip(sections, rows[1:], strict=False):
        _draw_variants(left, section, section_title(report, section))
        _draw_differences(right, section)
    curves = rows[len(sections) + 1 :].ravel()
    for section, axes in zip(sections, curves, strict=False):
        _draw_curves(axes, section)
    if len(curves) > len(sections):
        curves[-1].remove()
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


def _draw_by_images(axes: Any, report: Mapping[str, Any], sections: list[Any]) -> None:
    names = list(report["variants"])
    for number, name in enumerate(names):
        points = [(place, _last_measure(each)[1][name]) for place, each in enumerate(sections)]
        points = [(place, summary) for place, summary in points if summary["mean"] is not None]
        shift, color = 0.3 * ((number + 0.5) / len(names) - 0.5), f"C{number % 10}"
        if points:
            places, means = [place + shift for place, _ in points], [100 * summary["mean"] for _, summary in points]
            spreads = [_spread(summary) for _, summary in points]
            axes.errorbar(places, means, spreads, color=color, marker="o", markersize=4, capsize=2, label=name)
        for place, summary in points:
            bases = list(_base_means(summary).values())
            axes.plot([place + shift] * len(bases), bases, ".", color=color, alpha=0.5, markersize=5)
    labels = ["all" if each["per_class"] is None else f"{each['per_class']:,}" for each in sections]
    axes.set_xticks(range(len(sections)), labels)
    axes.set(xlabel="training images a class", ylabel=f"accuracy, {tables.MEASURES[_last_measure(sections[0])[0]]}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_by_pretraining(axes: Any, report: Mapping[str, Any], sections: list[Any]) -> None:
    """Accuracy with the fewest images by pre-training's own score."""
    measure, summaries = _last_measure(sections[0])
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
        title=section_title(report, sections[0]),
        xlabel="told apart in pre-training, % of whole images",
        ylabel=f"accuracy, {tables.MEASURES[measure]}, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_variants(axes: Any, section: Mapping[str, Any], title: str) -> None:
    measure, summaries = _last_measure(section)
    for number, _, summary in _with_results(summaries):
        axes.bar(number, 100 * summary["mean"], color=f"C{number % 10}", alpha=0.4)
        means = _base_means(summary)
        for place, (base, mean) in enumerate(means.items()):
            at = number + 0.5 * ((place + 0.5) / len(means) - 0.5)
            runs = [100 * value for value in summary["accuracies"][base].values()]
            axes.plot([at] * len(runs), runs, ".", color="0.4", markersize=3)
            axes.plot(at, mean, "D", color=f"C{number % 10}", markersize=5, markeredgecolor="k", markeredgewidth=0.5)
    _name_ticks(axes, summaries)
    axes.set(title=title, ylabel=f"accuracy, {tables.MEASURES[measure]}, %")


def _draw_differences(axes: Any, section: Mapping[str, Any]) -> None:
    _, summaries = _last_measure(section)
    axes.axhline(0, color="k", linewidth=1)
    for number, _, summary in _with_results(summaries):
        if (difference := summary["difference"]) is None:
            continue
        color, units = f"C{number % 10}", difference["by_base" if difference["unit"] == "bases" else "by_seed"]
        axes.plot([number] * len(units), [100 * value for value in units.values()], ".", color=color, alpha=0.5)
        axes.plot(number, 100 * difference["mean"], "o", color=color)
        if difference["interval"] is not None:
            axes.plot([number, number], [100 * end for end in difference["interval"]], color=color, linewidth=1.5)
    _name_ticks(axes, summaries)
    axes.set(title=f"difference from {next(iter(summaries))}, intervals of 95 %", ylabel="points of accuracy")


def _name_ticks(axes: Any, summaries: Mapping[str, Any]) -> None:
    axes.set_xticks(range(len(summaries)), list(summaries), rotation=30 if len(summaries) > 4 else 0, fontsize=8)
    axes.grid(alpha=0.3, axis="y")


def _draw_curves(axes: Any, section: Mapping[str, Any]) -> None:
    number_of_images = section["per_class"] or "all"
    for number, (name, rows) in enumerate(section["curves"]["variants"].items()):
        if rows:
            steps, means, stds = zip(*rows, strict=True)
            axes.plot(steps, means, color=f"C{number % 10}", linewidth=1, label=name)
            low = [mean - (std or 0.0) for mean, std in zip(means, stds, strict=True)]
            high = [mean + (std or 0.0) for mean, std in zip(means, stds, strict=True)]
            axes.fill_between(steps, low, high, color=f"C{number % 10}", alpha=0.15, linewidth=0)
    axes.set(
        title=f"{number_of_images} training images a class",
        xlabel="step of fine-tuning",
        ylabel=section["curves"]["quantity"],
    )
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)
