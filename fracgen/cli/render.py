"""`fracgen render`: 1p-frac, or whatever a recipe file holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.output import Output, recipe_options, render_recipe
from fracgen.onepfrac import OnePFrac
from fracgen.shards.errors import UsageError


@recipe_options(OnePFrac)
def render(
    values: dict[str, Any],
    output: Output,
    ifs: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV or JSON of a base fractal, or a folder of them, rendered or not; instead of --sigma and --maps. "
            "Given again, another base; --bases takes the first of them.",
            rich_help_panel="Base fractal",
        ),
    ] = None,
) -> None:
    """Render 1p-frac: one fractal, perturbed into L classes, as WebDataset shards. With --recipe, any data set.

    Run it again after any interruption: it goes on, and the folder ends the same to the byte.
    """
    from fracgen.base_fractals import load_bases

    if ifs and {"sigma", "maps"} & set(values):
        raise UsageError("--ifs gives the base fractal, so it excludes --sigma and --maps; leave them out")
    if ifs:
        values = {**values, "ifs": load_bases(ifs, values.pop("bases", None))}
    render_recipe(None, values, output)
