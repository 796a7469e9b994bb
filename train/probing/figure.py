"""A table and a plot of accuracy by block. Both take the entries of `nets` in probe.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.commandline import one_line
from fracgen.train.engine.run_folder import write_figure

_CLASSIFIERS = {"linear": "linear", "knn": "kNN"}
"""Key in probe.json: label in the plot."""
_LINEAR_WIDTH, _KNN_WIDTH = 10, 7

Net = Mapping[str, Any]


def table(nets: Sequence[Net]) -> str:
    """Accuracies in percent as text: a line for each block, two columns for each network."""
    deepest = max(nets, key=lambda network: len(network["blocks"]))["blocks"]
    widths = [max(_LINEAR_WIDTH + _KNN_WIDTH, len(network["name"]) + 2) for network in nets]
    name_width = max(len(block["block"]) for block in deepest)
    indent = " " * (name_width + 5)
    lines = [
        indent + "".join(f"{one_line(network['name']):>{width}}" for network, width in zip(nets, widths, strict=True)),
        indent + "".join(f"{'linear':>{width - _KNN_WIDTH}}{'kNN':>{_KNN_WIDTH}}" for width in widths),
    ]
    for number, block in enumerate(deepest):
        cells = [
            f"{_percent(each, number, 'linear'):>{width - _KNN_WIDTH}}{_percent(each, number, 'knn'):>{_KNN_WIDTH}}"
            for each, width in zip(nets, widths, strict=True)
        ]
        names = {network["blocks"][number]["block"] for network in nets if number < len(network["blocks"])}
        name = block["block"] if len(names) == 1 else ""  # where not all networks call it so
        lines.append(f"{number + 1:>3}  {name:<{name_width}}" + "".join(cells))
    return "\n".join(lines)


def _percent(network: Net, number: int, classifier: str) -> str:
    return f"{100 * network['blocks'][number][classifier]:.1f}" if number < len(network["blocks"]) else "-"


def draw(nets: Sequence[Net], chance: float, path: Path) -> None:
    """Write the plot as a PNG: a colour for each network, gray for random ones; dashes for kNN, dots for chance.

    chance: accuracy of always guessing the most frequent class, 0 to 1.
    Raises DataError where the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    grays = iter(["0.5", "0.7", "0.3"] * len(nets))
    for number, network in enumerate(nets):
        color = next(grays) if network["random"] else f"C{number % 10}"
        for (classifier, label), style in zip(_CLASSIFIERS.items(), ("-", "--"), strict=True):
            percents = [100 * block[classifier] for block in network["blocks"]]
            label = f"{network['name']}, {label}".lstrip("_")  # matplotlib leaves labels that begin with _ out
            axes.plot(range(1, len(percents) + 1), percents, style, marker=".", color=color, label=label)
    axes.axhline(100 * chance, color="0.3", linestyle=":", linewidth=1, label="chance")
    axes.set_xlabel("block")
    axes.set_ylabel("accuracy on test images, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)  # a user's name may hold "$"
    write_figure(path, figure)
