"""`fracgen merge` and `fracgen pack`: folders of shards from parts, and from images that are there."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fracgen.cli.output import Output, interruptible, output_options
from fracgen.shards.errors import UsageError
from fracgen.shards.labels.tables import Columns
from fracgen.shards.options import options_from
from fracgen.shards.settings import convert


@output_options("as_json", "any_versions")
def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder whose parts are rendered (--only).")],
    output: Output,
) -> None:
    """Finish a folder that was rendered in parts: write its manifest, or say which shards are missing."""
    from fracgen.cli import report
    from fracgen.render_shards import merge

    with interruptible(folder):
        result = merge(folder, any_versions=output.any_versions)
    report.rendered(result, machine="", as_json=output.as_json)


@options_from(Columns, into="columns", build=True)
@output_options("shards", "as_json", "workers", "any_versions")
def pack(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of images, FOLDER/SPLIT/CLASS/*.jpg or with labels.csv; or a table."
        ),
    ],
    output: Output,
    columns: Columns,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<name>",
            help="Split to pack; may be given again for others.",
            show_default="FOLDER/CLASS/*.jpg, as train",
            rich_help_panel="Images",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out files that are no images or damaged, and count them.",
            rich_help_panel="Images",
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="Folder to write or to resume; with --split, OUT/SPLIT is.",
            show_default="FOLDER's name-shards",
            rich_help_panel="Output",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="<text>", help="Begins the tars' names.", rich_help_panel="Output")
    ] = "images",
    seed: Annotated[int, typer.Option(help="Seed of the order of the images.", min=0, rich_help_panel="Output")] = 0,
    metadata: Annotated[
        bool,
        typer.Option(help="Store with each image its file's name, format, size, mode.", rich_help_panel="Output"),
    ] = True,
) -> None:
    """Pack images into shards, the files as they are: a folder a class, or labels in a table beside them.

    Run it again after any interruption: it goes on, and the folder ends the same to the byte.
    """
    from fracgen.cli import report
    from fracgen.cli.progress import RenderProgress, status
    from fracgen.pack import check_siblings, emptied_classes, plan
    from fracgen.pack import pack as pack_images
    from fracgen.shards.files import num_cores
    from fracgen.shards.labels.image_sources import open_images
    from fracgen.shards.labels.imagefolder import check_same_classes
    from fracgen.shards.labels.labelled_images import PACKED_EXTENSIONS

    home: Path = convert(Path | None, out, "--out") or _default_home(folder)
    splits: list[str | None] = [*split] if split else [None]
    results = []
    if len(set(splits)) < len(splits):
        raise UsageError(f"--split {' '.join(map(str, splits))}: each once")
    with status(f"listing {folder}"):
        listed = open_images(folder, splits, columns, PACKED_EXTENSIONS)
    check_same_classes(list(listed.values()))
    for each, images in listed.items():
        if each:
            check_siblings(images, home / each)
    for each, images in listed.items():
        target = home / each if each else home
        layout = plan(
            images, split=each or "train", name=name, num_shards=output.shards, seed=seed, keep_metadata=metadata
        )
        for line in images.passed_over():
            report.warn(f"{images.root}: {line}")
        with interruptible(target), RenderProgress(layout, enabled=not output.as_json) as progress:
            result = pack_images(
                images,
                target,
                layout,
                skip_bad=skip_bad,
                workers=output.workers,
                any_versions=output.any_versions,
                on_shard=progress.advance,
            )
        assert result.manifest is not None
        if emptied := emptied_classes(images, result.manifest):
            report.warn(f"{target}: every image of {', '.join(emptied[:8])} was left out")
        results.append(result)
    report.packed(results, machine=f"{output.workers or num_cores()} threads", as_json=output.as_json)


def _default_home(source: Path) -> Path:
    """NAME-shards for a folder, and for a table the same of the folder that it lies in."""
    folder = Path(os.path.realpath(source if source.is_dir() else source.parent))
    return Path(f"{folder.name}-shards")
