"""`fracgen publish`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fracgen.shards.errors import printable


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A finished folder of shards, or a model (RUN/model).")
    ],
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="hf://datasets/NAME/SET, hf://NAME/MODEL, or another, as s3://BUCKET/SET."),
    ],
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            "--license",
            metavar="<id>",
            help="Licence by its name on the Hub, as cc-by-4.0.",
            show_default="the card's: cc0-1.0 of formulas; images of others have none, and need one",
            rich_help_panel="Card",
        ),
    ] = "",
    revision: Annotated[
        str,
        typer.Option(
            metavar="<branch>", help="Branch on the Hub, made if missing.", show_default="main", rich_help_panel="Hub"
        ),
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository such that only you see it.", rich_help_panel="Hub")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Take the place of another set or model there.", rich_help_panel="Output"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be uploaded; write nothing.", rich_help_panel="Output")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Publish a data set or a model: what is missing is uploaded, and what arrived is compared, size and hash.

    Run it again after any interruption: it goes on. Readers' entry point (dataset.json, config.json) comes last.
    """
    from fracgen.cli.progress import UploadProgress
    from fracgen.publish import publish as publish_folder

    with UploadProgress(enabled=not as_json) as progress:
        result = publish_folder(
            folder,
            url,
            licence=licence,
            revision=revision,
            private=private,
            replace=replace,
            dry_run=dry_run,
            on_plan=progress.begin,
            on_file=progress.advance,
        )
    plan = result.plan
    values = {
        "url": result.url,
        "licence": result.release.licence,
        "uploaded": [file.name for file in plan.upload],
        "uploaded_bytes": plan.num_bytes,
        "removed": list(plan.delete),
        "already_there": len(plan.present),
    }
    if as_json:
        print(json.dumps({**values, "dry_run": dry_run}))
        return
    if dry_run:
        for name in plan.delete:
            print(f"would remove  {printable(name)}")
        for file in plan.upload:
            print(f"would upload  {printable(file.name)}  {file.num_bytes:,} bytes")
    done = "to upload" if dry_run else "uploaded"
    print(f"{done:<10}  {len(plan.upload)} files, {plan.num_bytes:,} bytes; {len(plan.present)} were there already")
    print(f"licence     {result.release.licence}")
    print(f"url         {result.url}")
