"""Accuracy by block, of several nets: a table for the screen, a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.train.engine.run_folder import write_figure

KINDS = {"linear": "linear", "knn": "kNN"}


def table(nets: Sequence[Mapping[str, Any]]) -> str:
    """A line a block, two columns a net, in percent. nets: of the `nets` in probe.json."""
    deepest = max(nets, key=lambda net: len(net["blocks"]))["blocks"]
    widths = [max(17, len(net["name"]) + 2) for net in nets]
    names = max(len(each["block"]) for each in deepest)
    lead = " " * (names + 5)
    lines = [
        lead + "".join(f"{net['name']:>{width}}" for net, width in zip(nets, widths, strict=True)),
        lead + "".join(f"{'linear':>{width - 7}}{'kNN':>7}" for width in widths),
    ]
    for number, block in enumerate(deepest):
        cells = [
            "".join(f"{_percent(net['blocks'], number, kind):>{room}}" for kind, room in _rooms(width))
            for net, width in zip(nets, widths, strict=True)
        ]
        lines.append(f"{number + 1:>3}  {_name(nets, number, block['block']):<{names}}" + "".join(cells))
    return "\n".join(lines)


def _rooms(width: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("linear", width - 7), ("knn", 7)


def _percent(blocks: Sequence[Mapping[str, Any]], number: int, kind: str) -> str:
    return f"{100 * blocks[number][kind]:.1f}" if number < len(blocks) else "-"


def _name(nets: Sequence[Mapping[str, Any]], number: int, name: str) -> str:
    """The block's name, where all nets call it so."""
    told = {net["blocks"][number]["block"] for net in nets if number < len(net["blocks"])}
    return name if told == {name} else ""


def draw(nets: Sequence[Mapping[str, Any]], chance: float, picture: Path) -> None:
    """Accuracy over blocks as a PNG, whole or not at all: a colour a net, dashes for kNN, dots for chance.

    Raises DataError where it cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, net in enumerate(nets):
        for (kind, word), line in zip(KINDS.items(), ("-", "--"), strict=True):
            shown = [100 * each[kind] for each in net["blocks"]]
            color = "0.5" if net["random"] else f"C{number % 10}"
            axes.plot(range(1, len(shown) + 1), shown, line, marker=".", color=color, label=f"{net['name']}, {word}")
    axes.axhline(100 * chance, color="0.3", linestyle=":", linewidth=1, label="chance")
    axes.set_xlabel("block")
    axes.set_ylabel("accuracy on test images, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write_figure(picture, figure)
