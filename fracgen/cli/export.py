"""`fracgen export`."""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fracgen.shards.cache import CacheSettings
from fracgen.shards.commandline import options_from
from fracgen.shards.errors import UsageError, printable
from fracgen.shards.remote import Url
from fracgen.shards.settings import convert
from fracgen.shards.urls import is_url

Target = Literal["parquet", "imagefolder", "onnx"]


@options_from(CacheSettings, into="cache", build=True)
def export(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder of shards, or its URL; for onnx a model (RUN/model).")
    ],
    cache: CacheSettings,
    to: Annotated[
        Target,
        typer.Option("--to", help="parquet: for Hugging Face datasets. imagefolder: a folder a class. onnx: a model."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="<path>",
            help="Folder to write; it must be empty, or not there.",
            show_default="FOLDER-parquet, and so on",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Export a data set to parquet or an image folder, a model to ONNX; whole, or not at all."""
    from fracgen.cli.progress import status

    name = Url.parse(source).name if is_url(source) else Path(source).absolute().name
    default = Path(f"{name}-{to}") if is_url(source) else Path(source).absolute().with_name(f"{name}-{to}")
    target: Path = convert(Path | None, out, "--out") or default
    with status(f"exporting {source}"):
        values = _to_onnx(source, target) if to == "onnx" else _to_files(source, target, to, cache)
    values = {"out": str(target), **values}
    if as_json:
        print(json.dumps(values))
        return
    for key, value in values.items():
        print(f"{key.replace('_', ' '):<12}{f'{value:,}' if isinstance(value, int) else printable(str(value))}")


def _to_files(folder: str, out: Path, to: Target, cache: CacheSettings) -> dict[str, Any]:
    from fracgen import export as exports

    if (Path(folder) / "config.json").is_file():
        raise UsageError(f"--to {to}: {folder} is a model; give --to onnx")
    if to == "parquet":
        names = exports.to_parquet(folder, out, cache=cache)
        return {"files": len(names), "bytes": sum((out / name).stat().st_size for name in names)}
    return {"images": exports.to_image_folder(folder, out, cache=cache)}


def _to_onnx(folder: str, out: Path) -> dict[str, Any]:
    path: Path = convert(Path, folder, "FOLDER")
    if not (path / "config.json").is_file():
        inner = f"; its model is {path / 'model'}" if (path / "model" / "config.json").is_file() else ""
        raise UsageError(f"--to onnx: {path} is no model that timm loads: it has no config.json{inner}")
    for library in ("torch", "timm"):
        if find_spec(library) is None:
            raise UsageError(f"--to onnx needs {library}, which is not installed: pip install 'fracgen[train,onnx]'")
    from fracgen.shards.new_folder import new_folder

    module = importlib.import_module("fracgen.train.engine.export_onnx")
    with new_folder(out) as temporary:
        result = module.export_onnx(path, temporary)
    return {
        "bytes": result.num_bytes,
        "opset": result.opset,
        "checked": f"{result.images} images: logits of onnxruntime within {result.difference:.1e} of torch's",
    }
