"""`fracgen search`: FractalDB's categories."""

from pathlib import Path
from typing import Annotated

import typer

from fracgen.cli.output import Json, Workers, find_categories
from fracgen.shards.settings import convert


def search(
    categories: Annotated[int, typer.Option(help="Number of categories.", rich_help_panel="Formula")] = 1000,
    seed: Annotated[
        int,
        typer.Option(help="Seed of numpy's legacy generator; the published one is 1.", rich_help_panel="Formula"),
    ] = 1,
    min_fill: Annotated[
        float,
        typer.Option(help="Least share of pixels that a category fills.", min=0, max=1, rich_help_panel="Formula"),
    ] = 0.2,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="Folder for 00000.csv and on, as the published tools read.",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Json = False,
    workers: Workers = None,
) -> None:
    """Search FractalDB's categories, the published ones by default. What is found is kept, and found once.

    Run it again after any interruption, or for more categories: it goes on.
    """
    from fracgen.categories import check_category_folder, write_categories
    from fracgen.cli import report
    from fracgen.search import Search

    conditions = Search(seed=seed, min_fill=min_fill)
    folder: Path | None = convert(Path | None, out, "--out")
    if folder is not None:
        check_category_folder(folder)
    systems, provenance, is_kept = find_categories(conditions, categories, workers, quiet=as_json)
    if folder is not None:
        write_categories(systems, folder)
    report.searched(len(systems), provenance, folder, kept=is_kept, as_json=as_json)
