"""`fracgen baseline` and `fracgen perturb`: a command for each other formula, made of its recipe's fields."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.output import Output, recipe_options, render_recipe
from fracgen.perturbed import Perturbed
from fracgen.registry import RECIPES
from fracgen.searched import SearchedRecipe

CategoriesFrom = Annotated[
    Path | None,
    typer.Option(
        help="Folder of category files, as `fracgen search` writes them, or rendered, instead of searching; all of "
        "them by default.",
        rich_help_panel="Formula",
    ),
]


def command_of(name: str) -> Callable[..., None]:
    """The command that renders a formula."""
    kind = RECIPES[name]

    def render(values: dict[str, Any], output: Output) -> None:
        render_recipe(name, values, output)

    def render_categories(values: dict[str, Any], output: Output, categories_from: CategoriesFrom = None) -> None:
        if categories_from is not None:
            searched: Any = kind
            systems = searched.CATEGORIES.load(categories_from, count=values.get("categories"))
            values = values | {"systems": systems, "categories": len(systems)}
        render_recipe(name, values, output)

    return recipe_options(kind)(render_categories if issubclass(kind, SearchedRecipe) else render)


@recipe_options(Perturbed)
def perturb(values: dict[str, Any], output: Output) -> None:
    """Render one image of another formula, perturbed into L classes as 1p-frac is: contour, atom, fractal."""
    render_recipe("perturbed", values, output)
