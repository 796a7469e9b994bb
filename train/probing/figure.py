"""Tables and the plot of a probe. All take the entries of `tasks` in probe.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.commandline import one_line
from fracgen.train.engine.run_folder import write_figure

_CLASSIFIERS = {"linear": "linear", "knn": "kNN"}
"""Key in probe.json: label in tables and plots."""
_LINEAR_WIDTH, _KNN_WIDTH = 10, 7
_FEW_SHOT_WIDTH = 14
_ACROSS = 3
"""Panels side by side."""

Task = Mapping[str, Any]
Cells = Sequence[tuple[str, str]]
"""Of a row: linear and kNN of each network."""


def table(tasks: Sequence[Task]) -> str:
    """Accuracies in percent as text: a line for each block of each task, two columns for each network.

    Of several tasks, their means come last.
    """
    nets = tasks[0]["layers"]
    deepest = max(nets, key=lambda net: len(net["blocks"]))["blocks"]
    groups = [(task["name"], [net["blocks"] for net in task["layers"]]) for task in tasks]
    if len(tasks) > 1:
        groups.append((f"mean of {len(tasks)} tasks", _means([by_net for _, by_net in groups])))
    name_width = max(len(block["block"]) for block in deepest)
    rows: list[tuple[str, Cells | None]] = []
    for title, by_net in groups:
        if len(tasks) > 1:
            rows.append((title, None))
        for number, block in enumerate(deepest):
            names = {blocks[number]["block"] for blocks in by_net if number < len(blocks)}
            name = block["block"] if len(names) == 1 else ""  # where not all networks call it so
            cells = [(_percent(blocks, number, "linear"), _percent(blocks, number, "knn")) for blocks in by_net]
            rows.append((f"{number + 1:>3}  {name:<{name_width}}", cells))
    return _lines([net["net"] for net in nets], rows, (_LINEAR_WIDTH, _KNN_WIDTH))


def few_shot_table(tasks: Sequence[Task]) -> str:
    """Accuracies in percent from a few images of each class: mean and standard deviation over draws."""
    names = list(dict.fromkeys(entry["net"] for entry in tasks[0]["few_shot"]))
    rows: list[tuple[str, Cells | None]] = []
    for task in tasks:
        by_net = [[entry for entry in task["few_shot"] if entry["net"] == name] for name in names]
        if len(tasks) > 1:
            rows.append((task["name"], None))
        for of_block in zip(*by_net, strict=True):
            for scores in zip(*(entry["scores"] for entry in of_block), strict=True):
                blocks = {entry["block"] for entry in of_block}
                name = f"{scores[0]['shots']:>3} a class, {blocks.pop() if len(blocks) == 1 else 'last block'}"
                rows.append((name, [(_spread(score["linear"]), _spread(score["knn"])) for score in scores]))
    return _lines(names, rows, (_FEW_SHOT_WIDTH, _FEW_SHOT_WIDTH))


def _lines(names: Sequence[str], rows: Sequence[tuple[str, Cells | None]], widths: tuple[int, int]) -> str:
    """A table: networks' names, the classifiers' under each, rows; a row without cells is a title."""
    first, second = widths
    indent = max(len(name) for name, _ in rows)
    across = [max(first + second, len(one_line(name)) + 2) for name in names]
    lines = [
        " " * indent + "".join(f"{one_line(name):>{width}}" for name, width in zip(names, across, strict=True)),
        " " * indent + "".join(f"{'linear':>{width - second}}{'kNN':>{second}}" for width in across),
    ]
    for name, cells in rows:
        texts = [
            f"{linear:>{width - second}}{knn:>{second}}"
            for (linear, knn), width in zip(cells or [], across, strict=bool(cells))
        ]
        lines.append(f"{name:<{indent}}{''.join(texts)}" if texts else name)
    return "\n".join(lines)


def _means(by_task: Sequence[Sequence[Any]]) -> list[list[dict[str, Any]]]:
    """Blocks of each network with means over tasks."""

    def mean(blocks: Sequence[Any]) -> dict[str, Any]:
        accuracies = {name: float(np.mean([each[name] for each in blocks])) for name in _CLASSIFIERS}
        return {"block": blocks[0]["block"], **accuracies}

    return [[mean(blocks) for blocks in zip(*of_net, strict=True)] for of_net in zip(*by_task, strict=True)]


def _percent(blocks: Sequence[Mapping[str, Any]], number: int, classifier: str) -> str:
    return f"{100 * blocks[number][classifier]:.1f}" if number < len(blocks) else "-"


def _spread(score: Mapping[str, Any]) -> str:
    return f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"


def draw(tasks: Sequence[Task], random: Sequence[bool], path: Path) -> None:
    """Write the plot as a PNG, a panel for each task: a colour for each network, gray for random ones; dashes for kNN,
    dots for chance, which is the accuracy of always guessing the most frequent class.

    random: of each network, whether its weights are. Raises DataError where the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    across = min(_ACROSS, len(tasks))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(7 if across == 1 else 5 * across, 4.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes in panels[len(tasks) :]:
        axes.axis("off")
    for task, axes in zip(tasks, panels, strict=False):
        grays = iter(["0.5", "0.7", "0.3"] * len(random))
        for number, (net, is_random) in enumerate(zip(task["layers"], random, strict=True)):
            color = next(grays) if is_random else f"C{number % 10}"
            for (classifier, label), style in zip(_CLASSIFIERS.items(), ("-", "--"), strict=True):
                percents = [100 * block[classifier] for block in net["blocks"]]
                label = f"{net['net']}, {label}".lstrip("_")  # matplotlib leaves labels that begin with _ out
                axes.plot(range(1, len(percents) + 1), percents, style, marker=".", color=color, label=label)
        axes.axhline(100 * task["chance"], color="0.3", linestyle=":", linewidth=1, label="chance")
        if len(tasks) > 1:
            axes.set_title(task["name"], fontsize="medium", parse_math=False)
        axes.set_xlabel("block")
        axes.set_ylabel("accuracy on test images, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for text in panels[0].legend(fontsize="small").get_texts():
        text.set_parse_math(False)  # a user's name may hold "$"
    write_figure(path, figure)
