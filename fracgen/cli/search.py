"""`fracgen search`: FractalDB's categories."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.output import Output, find_categories, output_options
from fracgen.fractaldb import CategoryRecipe
from fracgen.search_settings import Search
from fracgen.shards.commandline import options_from
from fracgen.shards.fields import schema_of
from fracgen.shards.settings import convert


@options_from(CategoryRecipe, ["categories"], into="number")
@options_from(Search, into="conditions", build=True)
@output_options("as_json", "workers")
def search(
    number: dict[str, Any],
    conditions: Search,
    output: Output,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="Folder for 00000.csv and on, as the published tools read.",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Search FractalDB's categories, the published ones by default. What is found is kept, and found once.

    Run it again after any interruption, or for more categories: it goes on.
    """
    from fracgen.categories import check_category_folder, write_categories
    from fracgen.cli import report

    categories: int = number.get("categories", schema_of(CategoryRecipe)["categories"].default)
    folder: Path | None = convert(Path | None, out, "--out")
    if folder is not None:
        check_category_folder(folder)
    systems, provenance, is_kept = find_categories(conditions, categories, output.workers, quiet=output.as_json)
    if folder is not None:
        write_categories(systems, folder)
    report.searched(len(systems), provenance, folder, kept=is_kept, as_json=output.as_json)
