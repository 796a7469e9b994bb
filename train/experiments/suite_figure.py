"""The figure of a suite, from its JSON alone: accuracy by task, and differences from the first start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fracgen.train.engine.run_folder import write_figure
from fracgen.train.experiments.suite_report import has_column, main_measure, published_of, rows_of
from fracgen.train.experiments.tables import MEASURES


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG; nothing where there is no result.

    Left: each task's and each mean's accuracy by start, a speck for each seed; published numbers are hollow diamonds.
    Right, with several starts: differences from the first, with their intervals of 95 %.
    Raises DataError where the file cannot be written.
    """
    if not any(entry["measures"] for entry in report["tasks"].values()):
        return
    from matplotlib.figure import Figure

    measure, several = main_measure(report), len(report["starts"]) > 1
    rows = rows_of(report, measure)
    figure = Figure(figsize=(12 if several else 7, 1.6 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 1 + several, sharey=True, squeeze=False)[0]
    _draw_accuracies(panels[0], report, measure, rows)
    panels[0].set(title=f"{report['suite']}, {report['protocol']['name']}", xlabel=f"accuracy, {MEASURES[measure]}, %")
    if several:
        _draw_differences(panels[1], report, rows)
    panels[0].set_yticks(range(len(rows)), [title for title, *_ in rows], parse_math=False)
    panels[0].invert_yaxis()
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.axhline(len(report["tasks"]) - 0.5, color="0.6", linewidth=0.8)
    write_figure(path, figure)


def _shift(number: int, count: int) -> float:
    return 0.5 * ((number + 0.5) / count - 0.5)


def _draw_accuracies(axes: Any, report: Mapping[str, Any], measure: str, rows: list[Any]) -> None:
    starts = report["starts"]
    for number, start in enumerate(starts):
        color, label = f"C{number % 10}", start
        for place, (_, summaries, _, _) in enumerate(rows):
            summary = summaries.get(start)
            if summary is None or summary["mean"] is None:
                continue
            at = place + _shift(number, len(starts))
            values = [100 * value for value in summary["accuracies"].get("0", {}).values()]
            axes.plot(values, [at] * len(values), ".", color="0.5", markersize=3)
            axes.plot(100 * summary["mean"], at, "o", color=color, markersize=5, label=label)
            label = "_nolegend_"
    for number, column in enumerate(name for name in report["published"] if has_column(report, name)):
        label = f"published, {column}"
        for place, (_, _, kind, key) in enumerate(rows):
            value = published_of(report, column, measure, kind, key)
            if value is not None:
                axes.plot(value, place, "D", color=f"C{(number + 5) % 10}", fillstyle="none", markersize=5, label=label)
                label = "_nolegend_"
    if axes.lines:
        axes.legend(fontsize=7)


def _draw_differences(axes: Any, report: Mapping[str, Any], rows: list[Any]) -> None:
    axes.axvline(0, color="k", linewidth=1)
    starts = report["starts"]
    for number, start in enumerate(starts):
        for place, (_, summaries, _, _) in enumerate(rows):
            difference = summaries.get(start, {}).get("difference")
            if difference is None:
                continue
            at, color = place + _shift(number, len(starts)), f"C{number % 10}"
            axes.plot(100 * difference["mean"], at, "o", color=color, markersize=5)
            if difference["interval"] is not None:
                axes.plot([100 * end for end in difference["interval"]], [at, at], color=color, linewidth=1.5)
    axes.set(title=f"difference from {starts[0]}, intervals of 95 %", xlabel="points of accuracy")
