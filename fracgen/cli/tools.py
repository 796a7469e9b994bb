"""The commands that look and measure: draw, inspect, verify, preview, bench."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fracgen.cli.output import Output, output_options
from fracgen.shards.cache import CacheSettings
from fracgen.shards.commandline import options_from
from fracgen.shards.errors import DataError, UsageError, printable
from fracgen.shards.remote import Url
from fracgen.shards.settings import convert
from fracgen.shards.urls import is_url
from fracgen.style import Style

Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder of shards, or its URL (s3://, hf://, https://).")]
cached = options_from(CacheSettings, into="cache", build=True)
"""Gives a command that reads a folder the options of the cache for URLs, as `cache`."""


@options_from(Style, into="style", build=True)
def draw(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A category CSV, our JSON, or a rendered folder.")],
    style: Style,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="<numbers>",
            help='Factors of a, b, c, d, e, f: "w,w,w,w,w,w"; or such six for each map, with ";" between them.',
            rich_help_panel="Image",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random patch masks.", rich_help_panel="Image")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="<path>",
            help="PNG to write.",
            show_default="SOURCE's name-drawing.png",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Draw one IFS exactly as the published renderer does."""
    from fracgen.cli import report
    from fracgen.ifs import load_ifs
    from fracgen.renderer import draw_ifs, parse_weights
    from fracgen.rng import MAX_SEED, stream_key
    from fracgen.shards.png import encode_png
    from fracgen.style import check_range, fill_rate

    check_range("seed", seed, 0, MAX_SEED)
    path = _png_path(out, source, "drawing")
    system = load_ifs(source)
    factors = None if weights is None else parse_weights(weights)
    image = draw_ifs(system, style, weights=factors, mask_key=stream_key(seed, 0, "masks"))
    report.write_png(path, encode_png(image))
    print(
        f"{printable(str(path))}: {style.size} x {style.size}, "
        f"fill rate {fill_rate(image):.4f}, sigma-factor {system.sigma:.4f}"
    )


@cached
@output_options("as_json")
def inspect(source: Folder, output: Output, cache: CacheSettings) -> None:
    """Show what a folder holds: recipe, counts, sizes, rejections."""
    from fracgen.cli import report
    from fracgen.shards.folder_files import open_folder

    files = open_folder(source, cache)
    report.inspected(str(files), files.manifest, as_json=output.as_json)
    report.fetched(files)


@cached
@output_options("as_json", "workers")
def verify(
    source: Folder,
    output: Output,
    cache: CacheSettings,
    render: Annotated[
        bool, typer.Option("--render", help="Also render some images again and compare their pixels.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Images that --render renders.", min=1)] = 16,
) -> None:
    """Check file and pixel hashes, tar structure, counts, labels and decodability; exit 1 names what is bad."""
    from fracgen.cli import report
    from fracgen.cli.progress import status
    from fracgen.rerender import differing_samples
    from fracgen.shards.files import num_cores
    from fracgen.shards.reader import open_shards
    from fracgen.shards.verify import unlisted_files, verify_folder

    shards = open_shards(source, cache=cache)
    if render and shards.manifest.image.original:
        raise UsageError(f"--render: the images of {shards.files} were packed, not rendered; leave it out")
    again = min(samples, len(shards)) if render else 0
    with status(f"verifying {shards.files}"):
        problems = verify_folder(shards, workers=output.workers or num_cores())
        if render:
            problems += differing_samples(shards, again)
    report.verified(shards.files, problems, unlisted_files(shards), rendered=again, as_json=output.as_json)
    report.fetched(shards.files)
    if problems:
        raise typer.Exit(DataError.exit_code)


@cached
def preview(
    cache: CacheSettings,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of shards, or its URL; with --sweep also a YAML recipe or a base fractal, or nothing.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="<path>", help="PNG to write.", show_default="SOURCE-preview.png"),
    ] = None,
    tile: Annotated[int, typer.Option(help="Pixels of a tile.", min=32, max=1024)] = 384,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<field=values>",
            help="Draw one image for each value of a field, as delta=0.01,0.05,0.1; given again, for each pair.",
        ),
    ] = None,
    index: Annotated[int, typer.Option(help="Which image --sweep draws.", min=0)] = 0,
) -> None:
    """Draw a contact sheet: some classes, several images of each, and what makes them differ; or a sweep."""
    from fracgen.cli import report
    from fracgen.preview import packed_sheet, recipe_sheet
    from fracgen.registry import from_dict
    from fracgen.shards.reader import open_shards

    if sweep:
        place: Path | None = convert(Path | None, source, "SOURCE")
        path = _png_path(out, place or Path("1p-frac"), "sweep")
        sheet = _sweep_sheet(place, sweep, index, tile)
    elif source is None:
        raise UsageError("SOURCE: give a folder of shards, or --sweep FIELD=VALUES")
    else:
        path = _png_path(out, source, "preview")
        shards = open_shards(source, cache=cache)
        if shards.manifest.image.original:
            sheet = packed_sheet(shards, tile)
        else:
            sheet = recipe_sheet(from_dict(shards.manifest.recipe, shards.files.small_files()), tile)
        report.fetched(shards.files)
    report.write_png(path, sheet)
    print(printable(str(path)))


def _sweep_sheet(source: Path | None, sweep: list[str], index: int, tile: int) -> bytes:
    from fracgen.cli.output import resolve_recipe
    from fracgen.registry import load_source
    from fracgen.shards.manifest import load_manifest
    from fracgen.shards.settings import parse_yaml
    from fracgen.sweep import base_number, check_sweep, sweep_sheet

    values = {}
    for text in sweep:
        name, equals, numbers = text.partition("=")
        if not equals or not numbers.strip():
            raise UsageError(f"--sweep {text}: is FIELD=VALUES, as in delta=0.01,0.05,0.1")
        if (name := name.strip().replace("-", "_")) in values:
            raise UsageError(f"--sweep {name}: is given twice; give all its values at once")
        values[name] = parse_yaml(f"[{numbers}]", f"--sweep {text}")
    recipe = load_source(source)
    check_sweep(recipe, values)
    if source is not None and source.is_dir():
        provenance = dict(load_manifest(source).provenance)
    else:
        recipe, provenance = resolve_recipe(recipe, Output())
    base = base_number(recipe, recipe.check_index(index), provenance)
    return sweep_sheet(recipe, values, index=index, base=base, tile=tile)


@output_options("as_json")
def bench(
    output: Output,
    images: Annotated[
        int, typer.Option(help="Images rendered end to end, for each number of cores.", min=8, max=10_000)
    ] = 256,
    repeats: Annotated[int, typer.Option(help="Repeats of each step; the median counts.", min=3)] = 50,
    plain: Annotated[bool, typer.Option(help="Also time the published loops in plain Python.")] = True,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Measure the category search and every data set end to end instead.")
    ] = False,
    explore: Annotated[
        bool, typer.Option("--explore", help="Measure what the page of `fracgen explore` waits for instead.")
    ] = False,
) -> None:
    """Measure ms per image and images/s: of 1p-frac's steps, or of all data sets end to end."""
    from fracgen import benchmark
    from fracgen.cli import report
    from fracgen.cli.progress import status
    from fracgen.shards.files import num_cores

    if baselines and explore:
        raise UsageError("--baselines and --explore: one at a time")
    with status("measuring"):
        if explore:
            from fracgen.explore import benchmark as explore_benchmark

            table = explore_benchmark.measure(repeats=repeats, cores=num_cores())
        elif baselines:
            table = benchmark.measure_baselines(images=images, cores=num_cores(), plain=plain)
        else:
            table = benchmark.measure(images=images, repeats=repeats, cores=num_cores(), plain=plain)
    report.measured(table, as_json=output.as_json)


def _png_path(out: str | None, source: Path | str, what: str) -> Path:
    """The PNG that a command writes: `out`, or a file beside a folder, or here, named after the source."""
    if out is not None:
        path: Path = convert(Path, out, "--out")
        return path
    if is_url(source):
        return Path(f"{Url.parse(str(source)).name}-{what}.png")
    source = Path(os.path.realpath(source))
    return source.with_name(f"{source.name}-{what}.png") if source.is_dir() else Path(f"{source.stem}-{what}.png")
