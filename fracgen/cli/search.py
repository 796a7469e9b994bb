"""`fracgen search`: the categories of FractalDB and of ExFractalDB."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fracgen.cli.output import Output, find_categories, output_options
from fracgen.search_settings import Search, SpatialSearch
from fracgen.searched import SearchedRecipe
from fracgen.shards.commandline import options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.fields import schema_of
from fracgen.shards.settings import convert

Formula = Literal["fractaldb", "exfractaldb"]
SEARCHES: dict[Formula, type[Search | SpatialSearch]] = {"fractaldb": Search, "exfractaldb": SpatialSearch}


@options_from(SearchedRecipe, ["categories"], into="number")
@options_from(Search, into="conditions")
@options_from(SpatialSearch, ["min_variance"], into="spatial_conditions")
@output_options("as_json", "workers")
def search(
    number: dict[str, Any],
    conditions: dict[str, Any],
    spatial_conditions: dict[str, Any],
    output: Output,
    formula: Annotated[
        Formula,
        typer.Option(
            help="Whose categories; exfractaldb: those of MV-FractalDB and 3D-OFDB too.", rich_help_panel="Formula"
        ),
    ] = "fractaldb",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="Folder for 00000.csv and on (exfractaldb: 000000.csv), as the published tools read.",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Search FractalDB's or ExFractalDB's categories, as published. What is found is kept, and found once.

    Run it again after any interruption, or for more categories: it goes on.
    """
    from fracgen.categories import check_category_folder, write_categories
    from fracgen.cli import report

    values = conditions | spatial_conditions
    for other, kind in SEARCHES.items():
        if not_its_own := sorted(values.keys() - schema_of(SEARCHES[formula]).keys() & schema_of(kind).keys()):
            option = not_its_own[0].replace("_", "-")
            raise UsageError(f"--{option}: a condition of {other}'s search, not of {formula}'s")
    search = SEARCHES[formula](**values)
    categories: int = number.get("categories", schema_of(SearchedRecipe)["categories"].default)
    folder: Path | None = convert(Path | None, out, "--out")
    if folder is not None:
        check_category_folder(folder, search.CATEGORIES)
    systems, provenance, is_kept = find_categories(search, categories, output.workers, quiet=output.as_json)
    if folder is not None:
        write_categories(systems, folder)
    report.searched(len(systems), provenance, folder, kept=is_kept, as_json=output.as_json)
