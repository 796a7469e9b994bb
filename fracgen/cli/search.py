"""`fracgen search`: FractalDB's categories."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.output import Json, Workers, find_categories
from fracgen.fractaldb import CategoryRecipe
from fracgen.search_settings import Search
from fracgen.shards.commandline import options_from
from fracgen.shards.fields import schema_of
from fracgen.shards.settings import convert, from_plain


@options_from(CategoryRecipe, ["categories"], into="number")
@options_from(Search, into="settings")
def search(
    number: dict[str, Any],
    settings: dict[str, Any],
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

    conditions = from_plain(Search, settings)
    categories: int = number.get("categories", schema_of(CategoryRecipe)["categories"].default)
    folder: Path | None = convert(Path | None, out, "--out")
    if folder is not None:
        check_category_folder(folder)
    systems, provenance, is_kept = find_categories(conditions, categories, workers, quiet=as_json)
    if folder is not None:
        write_categories(systems, folder)
    report.searched(len(systems), provenance, folder, kept=is_kept, as_json=as_json)
