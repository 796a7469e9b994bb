"""Accuracies of several starts over the same seeds: means, paired differences and their spread, as tables and bars.

The spread is the standard deviation of a sample. One seed has none: None in files, "-" on the screen.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.errors import printable
from fracgen.train.engine.run_folder import write_figure

Scores = Mapping[str, Mapping[int, float]]
"""Accuracy, 0 to 1, by start and seed. Differences are from the first start."""

MEASURES = {"last": "last epoch", "chosen": "chosen epoch", "best_test": "best test epoch"}
"""Which weights are scored: those at the end of training ("last"); those of the epoch with the best accuracy on the
validation split ("chosen"); those of the epoch with the best accuracy on the test split ("best_test": the published
protocol, a maximum over epochs and so too high)."""

Curves = Mapping[str, Sequence[Sequence[tuple[int, float]]]]
"""By start, one curve for each seed: (step, value)."""


def summarize(scores: Scores) -> dict[str, dict[str, Any]]:
    """By start: n, mean, std, each (by seed), and the paired `difference` from the first start.

    difference: n, mean and std over the seeds that both starts have, and `better`, the number of seeds with a higher
    accuracy; None for the first start, and where no seed is in both.
    """
    first = next(iter(scores.values()), {})
    summaries = {}
    for number, (name, by_seed) in enumerate(scores.items()):
        differences = [by_seed[seed] - first[seed] for seed in by_seed if number and seed in first]
        summaries[name] = {
            **_mean_and_std(list(by_seed.values())),
            "each": {str(seed): by_seed[seed] for seed in sorted(by_seed)},
            "difference": {**_mean_and_std(differences), "better": sum(value > 0 for value in differences)}
            if differences
            else None,
        }
    return summaries


def _mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    return {
        "n": len(values),
        "mean": round(statistics.fmean(values), 6) if values else None,
        "std": round(statistics.stdev(values), 6) if len(values) > 1 else None,
    }


def table(
    measures: Mapping[str, Mapping[str, Any]], extra_columns: Mapping[str, Mapping[str, str]] | None = None
) -> list[list[str]]:
    """Rows of cells in percent, headings first: a row for each start, three columns for each measure.

    measures: what `summarize` returns, by measure. extra_columns: cells by start, by heading.
    """
    extra_columns = extra_columns or {}
    head = ["start", "n"]
    for measure in measures:
        head += [f"{MEASURES[measure]}, %", "difference", "better in"]
    rows = [[*head, *extra_columns]]
    summaries = list(measures.values())
    for name in summaries[0]:
        row = [name, str(summaries[0][name]["n"])]
        for each in summaries:
            row += _cells(each[name])
        rows.append([*row, *(column.get(name, "") for column in extra_columns.values())])
    return rows


def _cells(summary: Mapping[str, Any]) -> list[str]:
    difference = summary["difference"]
    if difference is None:
        return [_percent(summary), "", ""]
    return [_percent(summary), _percent(difference, "+.2f"), f"{difference['better']} of {difference['n']}"]


def _percent(summary: Mapping[str, Any], form: str = ".2f") -> str:
    if summary["mean"] is None:
        return "-"
    std = "-" if summary["std"] is None else f"{100 * summary['std']:.2f}"
    return f"{100 * summary['mean']:{form}} ± {std}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for the screen: the first column aligned left, the others right; control characters are escapes."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; control characters and bars in cells are escapes."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    first, *others = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, rule, *others))


def draw(
    bars: Mapping[str, tuple[str, Mapping[str, Any]]], curves: Mapping[str, tuple[str, Curves]], path: Path
) -> None:
    """Write a PNG with one row of two panels for each title: accuracies as bars, training curves.

    bars: (one of MEASURES, its `summarize`) by title: the mean as a bar, a dot for each seed.
    curves: (name of the quantity, its values over steps) by title.
    Raises DataError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6 * len(bars)), layout="constrained")
    panels = figure.subplots(len(bars), 2, squeeze=False)
    for (title, (measure, summaries)), (left, right) in zip(bars.items(), panels, strict=True):
        _draw_bars(left, title, measure, summaries)
        _draw_curves(right, *curves[title])
    write_figure(path, figure)


def _draw_bars(axes: Any, title: str, measure: str, summaries: Mapping[str, Any]) -> None:
    for number, summary in enumerate(summaries.values()):
        if summary["mean"] is not None:
            axes.bar(number, 100 * summary["mean"], color=f"C{number % 10}", alpha=0.5)
            axes.plot([number] * summary["n"], [100 * each for each in summary["each"].values()], "k.", markersize=4)
    axes.set_xticks(range(len(summaries)), list(summaries), rotation=30 if len(summaries) > 4 else 0)
    axes.set(title=title, ylabel=f"accuracy, {MEASURES[measure]}, %")
    axes.grid(alpha=0.3, axis="y")


def _draw_curves(axes: Any, quantity: str, curves: Curves) -> None:
    for number, (name, runs) in enumerate(curves.items()):
        for index, points in enumerate(points for points in runs if points):
            steps, values = zip(*points, strict=True)
            label = name if index == 0 else None  # one entry in the legend for all seeds of a start
            axes.plot(steps, values, color=f"C{number % 10}", marker=".", markersize=3, linewidth=1, label=label)
    axes.set(xlabel="step", ylabel=quantity)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
