"""Accuracies of several starts over the same seeds: means, paired differences, their spread; as a table, as a picture.

The spread is the standard deviation of a sample. Of one seed there is none: None, and "-" on the screen.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.train.engine.run_folder import write_figure

Scores = Mapping[str, Mapping[int, float]]
"""Accuracy (0 to 1) by start and seed. The others are held against the first start."""

MEASURES = {"last": "last epoch", "chosen": "chosen epoch", "best_test": "best test epoch"}
"""What is compared: the weights at the end, and those of the epoch that was chosen, where one was: on a validation
split; or on the test split, as published, which is a maximum over the epochs."""


def contrast(scores: Scores) -> dict[str, dict[str, Any]]:
    """By start: n, mean, std, each, and `difference` from the first start over the seeds that both have.

    difference: n, mean, std, and in how many seeds the start is better; None for the first, and without such seeds.
    """
    first = next(iter(scores.values()), {})
    found = {}
    for number, (name, values) in enumerate(scores.items()):
        both = [seed for seed in values if number and seed in first]
        found[name] = {**_told(list(values.values())), "each": {str(seed): values[seed] for seed in sorted(values)}}
        found[name]["difference"] = _difference([values[seed] - first[seed] for seed in both]) if both else None
    return found


def _told(values: Sequence[float]) -> dict[str, Any]:
    return {
        "n": len(values),
        "mean": round(statistics.fmean(values), 6) if values else None,
        "std": round(statistics.stdev(values), 6) if len(values) > 1 else None,
    }


def _difference(values: Sequence[float]) -> dict[str, Any]:
    return {**_told(values), "better": sum(value > 0 for value in values)}


def table(
    section: Mapping[str, Mapping[str, Any]], beside: Mapping[str, Mapping[str, str]] | None = None
) -> list[list[str]]:
    """Rows of cells, the first of headings. section: by measure, what `contrast` gives. In percent.

    beside: further columns by heading: cells by start.
    """
    names = list(next(iter(section.values())))
    head = ["start", "n"]
    for measure in section:
        head += [f"{MEASURES[measure]}, %", "difference", "better in"]
    rows = [[*head, *(beside or {})]]
    for name in names:
        row = [name, str(next(iter(section.values()))[name]["n"])]
        for found in section.values():
            row += _cells(found[name])
        rows.append([*row, *(column.get(name, "") for column in (beside or {}).values())])
    return rows


def _cells(found: Mapping[str, Any]) -> list[str]:
    apart = found["difference"]
    if apart is None:
        return [_spread(found), "", ""]
    return [_spread(found), _spread(apart, "+.2f"), f"{apart['better']} of {apart['n']}"]


def _spread(found: Mapping[str, Any], form: str = ".2f") -> str:
    if found["mean"] is None:
        return "-"
    std = "-" if found["std"] is None else f"{100 * found['std']:.2f}"
    return f"{100 * found['mean']:{form}} ± {std}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for the screen: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


Curves = Mapping[str, Sequence[Sequence[tuple[int, float]]]]
"""By start, of each seed: (step, value)."""


Bars = tuple[str, Mapping[str, Any]]
"""One of MEASURES, and what `contrast` gives of it."""


def draw(sections: Mapping[str, Bars], curves: Mapping[str, tuple[str, Curves]], path: Path) -> None:
    """A PNG, whole or not at all: a row of two panels for each section.

    sections: by title, bars of the means, and a dot for each seed. curves: by the same titles, what is drawn over
    steps, and its values.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6 * len(sections)), layout="constrained")
    for (title, bars), panels in zip(sections.items(), figure.subplots(len(sections), 2, squeeze=False), strict=True):
        _draw_bars(panels[0], title, *bars)
        _draw_curves(panels[1], *curves[title])
    write_figure(path, figure)


def _draw_bars(axes: Any, title: str, measure: str, found: Mapping[str, Any]) -> None:
    for place, (_, row) in enumerate(found.items()):
        if row["mean"] is not None:
            axes.bar(place, 100 * row["mean"], color=f"C{place % 10}", alpha=0.5)
            axes.plot([place] * row["n"], [100 * each for each in row["each"].values()], "k.", markersize=4)
    axes.set_xticks(range(len(found)), list(found), rotation=30 if len(found) > 4 else 0)
    axes.set(title=title, ylabel=f"accuracy, {MEASURES[measure]}, %")
    axes.grid(alpha=0.3, axis="y")


def _draw_curves(axes: Any, label: str, curves: Curves) -> None:
    for place, (name, runs) in enumerate(curves.items()):
        for number, points in enumerate(each for each in runs if each):
            named = name if number == 0 else None
            axes.plot(
                *zip(*points, strict=True), color=f"C{place % 10}", marker=".", markersize=3, linewidth=1, label=named
            )
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
