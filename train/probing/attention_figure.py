"""Figures of attention: maps over images, mean distance by block, similarity of position embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fracgen.train.engine.run_folder import write_figure
from fracgen.train.probing.attention import Attention

_CELL = 64
"""Side of a map in the figure, in pixels, at least."""
_SHOWN = 6
"""Blocks, and heads, that are drawn where none are named."""
_SHARE = 0.6
"""Of a map's colour, over the image in gray."""
_WIDEST = 5
"""The scale ends at 2 to the power of this, and of its negative, at most."""
_INCH, _PICTURE = 0.75, 2.0
"""Side of a map, and of the picture beside them in maps."""

Picture = npt.NDArray[np.uint8]


def evenly_chosen(count: int) -> list[int]:
    """At most six numbers below `count`, evenly spaced, first and last among them."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(count, _SHOWN))})


def draw_maps(
    path: Path,
    name: str,
    attention: Attention,
    pictures: Sequence[Picture],
    *,
    blocks: Sequence[int] = (),
    heads: Sequence[int] = (),
) -> None:
    """Write a panel for each image: its maps, a row for each head and a column for each block.

    One scale for all maps: orange where there is more attention than even attention gives, purple where less.
    pictures: uint8 (size, size, 3). blocks, heads: numbers from 0; none: six of them at most.
    Raises DataError where the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    blocks = list(blocks) or evenly_chosen(len(attention.maps))
    heads = list(heads) or evenly_chosen(attention.maps[0].shape[1])
    shown = np.stack([attention.maps[block][:, heads].numpy() for block in blocks], 2)  # (images, heads, blocks, H, W)
    powers = np.log2(np.maximum(shown, 2.0**-_WIDEST))
    widest = min(_WIDEST, max(1.0, float(np.quantile(np.abs(powers), 0.98))))
    scale, colors = Normalize(-widest, widest, clip=True), colormaps["PuOr_r"]
    across = 2 if len(pictures) > 1 and len(blocks) <= _SHOWN else 1
    down = -(-len(pictures) // across)
    wide, high = _INCH * (len(blocks) + _PICTURE), _INCH * max(_PICTURE, len(heads))
    figure = Figure(figsize=(across * (wide + 0.4) + 1.3, down * (high + 0.4) + 0.5), layout="constrained")
    grid = figure.subplots(down, 2 * across, squeeze=False, width_ratios=[_PICTURE, len(blocks)] * across)
    for number in range(down * across):
        picture_axes, axes = grid[number // across, 2 * (number % across) :][:2]
        picture_axes.axis("off")
        if number >= len(pictures):
            axes.axis("off")
            continue
        picture_axes.imshow(pictures[number])
        axes.imshow(_mosaic(pictures[number], colors(scale(powers[number]))[..., :3]))
        side = max(_CELL, len(pictures[number]))
        _label(axes, [f"{block + 1}" for block in blocks], [f"{head + 1}" for head in heads], side)
    bar = figure.colorbar(ScalarMappable(scale, colors), ax=grid, fraction=0.04, shrink=0.6)
    ticks = [power for power in range(-_WIDEST, _WIDEST + 1) if abs(power) <= widest]
    bar.set_ticks(ticks, labels=[f"{2.0**power:g}" for power in ticks])
    bar.set_label("attention / even attention")
    title = f"{name}: attention of the {attention.query}; blocks across, heads down"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    write_figure(path, figure)


def _mosaic(picture: Picture, maps: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Maps over the picture in gray, one image. maps: (heads, blocks, H, W, 3) of levels in [0, 1]."""
    side = max(_CELL, len(picture))
    rows = np.arange(side) * len(picture) // side
    gray = (picture.astype(float).mean(-1) / 255)[rows][:, rows]
    gap = max(2, side // 24)
    mosaic = np.ones((len(maps) * (side + gap) - gap, maps.shape[1] * (side + gap) - gap, 3))
    for head, by_block in enumerate(maps):
        for block, each in enumerate(by_block):
            cells = each[np.arange(side) * each.shape[0] // side][:, np.arange(side) * each.shape[1] // side]
            top, left = head * (side + gap), block * (side + gap)
            mosaic[top : top + side, left : left + side] = _SHARE * cells + (1 - _SHARE) * gray[..., None]
    return mosaic


def _label(axes: Any, across: Sequence[str], down: Sequence[str], side: int) -> None:
    """Numbers of the mosaic's columns above, of its rows at the left."""
    step = side + max(2, side // 24)
    axes.set_xticks([step * number + side / 2 for number in range(len(across))], across, fontsize="x-small")
    axes.set_yticks([step * number + side / 2 for number in range(len(down))], down, fontsize="x-small")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_distances(path: Path, nets: Sequence[Mapping[str, Any]]) -> None:
    """Write mean attention distance by block: a dot for each head, a line through their mean, even attention dotted.

    nets: name, random, and what `Attention.describe` gives. Raises DataError where the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    grays = iter(["0.5", "0.7", "0.3"] * len(nets))
    for number, net in enumerate(nets):
        color = next(grays) if net["random"] else f"C{number % 10}"
        by_block = [block["distances"] for block in net["blocks"]]
        x = range(1, len(by_block) + 1)
        axes.plot(x, [np.mean(each) for each in by_block], color=color, label=net["name"].lstrip("_"))
        for block, distances in zip(x, by_block, strict=True):
            axes.plot([block] * len(distances), distances, ".", color=color, alpha=0.6)
        axes.axhline(net["even_distance"], color=color, linestyle=":", linewidth=1)
    axes.plot([], [], color="0.3", linestyle=":", linewidth=1, label="even attention")
    axes.set_xlabel("block")
    axes.set_ylabel("mean attention distance of a head, pixels")
    axes.set_ylim(0, 1.15 * max(each for net in nets for block in net["blocks"] for each in block["distances"]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)  # a user's name may hold "$"
    write_figure(path, figure)


def draw_position_similarity(path: Path, nets: Sequence[tuple[str, Tensor]]) -> None:
    """Write a panel for each network: at each patch, the cosine similarity of its position embedding to all others.

    nets: (name, float32 (H, W, H, W)). Raises DataError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(nets) + 0.8, 4.8), layout="constrained")
    panels = figure.subplots(1, len(nets), squeeze=False)[0]
    for axes, (name, similarity) in zip(panels, nets, strict=True):
        rows, columns = similarity.shape[:2]
        tiles = np.full((rows, rows + 1, columns, columns + 1), np.nan)
        tiles[:, :rows, :, :columns] = similarity.numpy().transpose(0, 2, 1, 3)
        image = axes.imshow(tiles.reshape(rows * (rows + 1), -1), vmin=-1, vmax=1, cmap="viridis")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize="medium", parse_math=False)
        axes.set_xlabel(f"{rows} x {columns} patches, each with its {rows} x {columns} similarities", fontsize="small")
    figure.colorbar(image, ax=panels, label="cosine similarity", shrink=0.7)
    write_figure(path, figure)
