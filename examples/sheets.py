"""Draws the sheets that lie beside this file: 1p-frac.png for the README, and one of each other recipe.

python examples/sheets.py OUT

`fracgen preview DIR` draws such a sheet of a folder that is rendered; here nothing is rendered but what is shown.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fracgen
from fracgen.onepfrac import PREVIEW_CLASSES
from fracgen.preview import contact_sheet, recipe_sheet
from fracgen.recipe import Column

HERE = Path(__file__).parent


def perturbations(values: dict[str, Any]) -> Sequence[Column]:
    """One base fractal and five classes; below, where they differ from it, under three ways to perturb it."""
    paper, _ = fracgen.OnePFrac(**values).resolve()
    columns: list[list[Any]] = [[] for _ in range(1 + PREVIEW_CLASSES)]
    for perturbation, delta in (("additive", 0.1), ("multiplicative", 0.1), ("additive", 0.01)):
        changes = {**values, "perturbation": perturbation, "delta": delta, "ifs": paper.base}
        recipe, _ = fracgen.OnePFrac(**changes).resolve()
        for number, (image, (_, difference)) in enumerate(recipe.preview()):
            columns[number] += [] if columns[number] else [image]
            if number:
                columns[number].append((f"{perturbation}, Delta {delta:g}", difference))
    return columns


def main(out: Path) -> None:
    """Draw all sheets."""
    heading = "1p-frac, sigma 3.5, seed 0"
    save(contact_sheet(perturbations({}), 136, heading=heading), out / "1p-frac.png")
    save(contact_sheet(augmented(), 256), out / "ofdb-augmented.png")
    save(contact_sheet(other_formulas(), 216, heading="perturbed, Delta 0.1"), out / "perturbed.png", num_colours=128)
    for name in ("1p-frac-bases", "fractaldb", "ofdb", "exfractaldb", "visualatom", "rcdb", "multifractal", "noise"):
        recipe, _ = fracgen.load_recipe(HERE / f"{name}.yaml").resolve()
        save(recipe_sheet(recipe), out / f"{name}.png", num_colours=256 if name == "multifractal" else 64)


def other_formulas() -> Sequence[Column]:
    """One image of each other formula, two of its perturbations, and where the second differs from it."""
    columns = list[list[Any]]()
    for formula in ("rcdb", "visualatom", "exfractaldb", "multifractal"):
        recipe, _ = fracgen.Perturbed(formula=formula, classes=6).resolve()
        [original], *_, [first, _], [second, (_, difference)] = recipe.preview()
        names = (f"{formula}, original", first[0], second[0], second[0])
        pictures = (original[1], first[1], second[1], difference)
        columns.append(list(zip(names, pictures, strict=True)))
    return columns


def augmented() -> Sequence[Column]:
    """Four categories of OFDB in three passes of `masks="redrawn", texture=1`."""
    recipe, _ = fracgen.OFDB(categories=6).resolve()
    dataset = fracgen.TorchDataset(recipe, np.array, masks="redrawn", texture=1)
    rows = []
    for number in range(3):
        dataset.set_epoch(number)
        rows.append([(f"category {category}, pass {number}", dataset[category][0]) for category in (1, 2, 3, 5)])
    return [list(column) for column in zip(*rows, strict=True)]


def save(png: bytes, path: Path, *, num_colours: int = 64) -> None:
    """Write a sheet in 64 colours, a third of its bytes: these are kept in git."""
    Image.open(io.BytesIO(png)).quantize(num_colours, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
