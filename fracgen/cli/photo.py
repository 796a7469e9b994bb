"""`fracgen photo`: one real image as a data set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.output import Output, recipe_options, render_recipe
from fracgen.photo.recipe import Photo
from fracgen.shards.errors import UsageError


@recipe_options(Photo)
def photo(
    values: dict[str, Any],
    output: Output,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="One photograph or several, in any format.")
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            help="Longer side in pixels to which greater photographs are reduced first.",
            min=8,
            show_default="2048",
            rich_help_panel="Image",
        ),
    ] = None,
) -> None:
    """Render one real image, or several: its edges, warped into L classes. Ranges and thresholds are ours.

    A rendered folder has its photographs in it: `fracgen photo --recipe DIR` needs no others.
    """
    from fracgen.photo.opencv import opencv

    opencv().setNumThreads(1)  # this process has a thread a core already; alone in a process, nobody else is slowed
    render_recipe("photo", values | _photographs(images or [], max_side), output)


def _photographs(paths: list[Path], max_side: int | None) -> dict[str, Any]:
    """The field that image files set."""
    if not paths and max_side is not None:
        raise UsageError("--max-side is for photographs that are given; give one, or leave it out")
    if not paths:
        return {}
    from fracgen.cli import report
    from fracgen.photo.photographs import MAX_SIDE, load_photographs

    photographs, notes = load_photographs(paths, max_side=MAX_SIDE if max_side is None else max_side)
    for note in notes:
        report.warn(note)
    return {"photographs": photographs}
