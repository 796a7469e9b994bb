"""`fracgen baseline`: the data sets that 1p-frac is compared with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.categories import CategorySet
from fracgen.cli.output import Output, recipe_options, render_recipe
from fracgen.exfractaldb import ExFractalDB
from fracgen.fractaldb import OFDB, FractalDB
from fracgen.multifractal import MultiFractal
from fracgen.noise import Noise
from fracgen.perturbed import Perturbed
from fracgen.rcdb import RCDB
from fracgen.visualatom import VisualAtom

CategoriesFrom = Annotated[
    Path | None,
    typer.Option(
        help="Folder of category files, as `fracgen search` writes them, or rendered, instead of searching; all of "
        "them by default.",
        rich_help_panel="Formula",
    ),
]


@recipe_options(FractalDB)
def fractaldb(values: dict[str, Any], output: Output, categories_from: CategoriesFrom = None) -> None:
    """Render FractalDB: fractals with 25 weights, instances and flips; 1000 x 1000 images by default."""
    render_recipe("fractaldb", values | _categories(FractalDB.CATEGORIES, categories_from, values), output)


@recipe_options(OFDB)
def ofdb(values: dict[str, Any], output: Output, categories_from: CategoriesFrom = None) -> None:
    """Render OFDB: one image a category of FractalDB."""
    render_recipe("ofdb", values | _categories(OFDB.CATEGORIES, categories_from, values), output)


@recipe_options(VisualAtom)
def visualatom(values: dict[str, Any], output: Output) -> None:
    """Render VisualAtom: orbits of gray lines around a centre; 1000 x 1000 images by default."""
    render_recipe("visualatom", values, output)


@recipe_options(RCDB)
def rcdb(values: dict[str, Any], output: Output) -> None:
    """Render RCDB: radial contours in gray on white; 1000 x 1000 images by default."""
    render_recipe("rcdb", values, output)


@recipe_options(MultiFractal)
def multifractal(values: dict[str, Any], output: Output) -> None:
    """Render coloured fractals, several to an image with several labels, or one; 1000 x 1000 images by default."""
    render_recipe("multifractal", values, output)


@recipe_options(ExFractalDB)
def exfractaldb(values: dict[str, Any], output: Output, categories_from: CategoriesFrom = None) -> None:
    """Render ExFractalDB, MV-FractalDB or 3D-OFDB: fractals of space from 12 sides; 1000 x 1740 images by default."""
    render_recipe("exfractaldb", values | _categories(ExFractalDB.CATEGORIES, categories_from, values), output)


@recipe_options(Noise)
def noise(values: dict[str, Any], output: Output) -> None:
    """Render noise, the structure-free controls: one image a class. The numbers are ours: none were published."""
    render_recipe("noise", values, output)


@recipe_options(Perturbed)
def perturb(values: dict[str, Any], output: Output) -> None:
    """Render one image of another formula, perturbed into L classes as 1p-frac is: contour, atom or 3D fractal."""
    render_recipe("perturbed", values, output)


def _categories(kind: type[CategorySet[Any]], folder: Path | None, values: dict[str, Any]) -> dict[str, Any]:
    """The fields that a folder of category files sets."""
    if folder is None:
        return {}
    systems = kind.load(folder, count=values.get("categories"))
    return {"systems": systems, "categories": len(systems)}
