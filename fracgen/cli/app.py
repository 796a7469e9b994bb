"""The command line: words in, a recipe out, the result printed. Thin; what a command needs is imported when it runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.cli.commands import ColorOption, DrawOption, InterruptError, Json, PatchOption, Workers, add_commands
from fracgen.shards.errors import DataError, FracgenError, UsageError

app = typer.Typer(
    help="Synthetic pre-training data from formulas: exact, fast, reproducible to the byte.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's base of all errors in the words of a command line; typer brings its own click, or not, by version."""


add_commands(app)


@app.command()
def draw(
    source: Annotated[
        Path, typer.Argument(metavar="CSV_OR_JSON", help="A category CSV, our JSON, or a rendered folder.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="PNG to write.")],
    size: Annotated[int, typer.Option(help="Image width and height in pixels.")] = 512,
    pad: Annotated[int, typer.Option(help="Border in pixels.")] = 6,
    points: Annotated[int, typer.Option(help="Points of the orbit.")] = 100_000,
    draw: Annotated[DrawOption, typer.Option(help="3 x 3 patches or single pixels.")] = "patch",
    color: Annotated[ColorOption, typer.Option(help="Gray, or hue by point.")] = "gray",
    patch: Annotated[PatchOption, typer.Option(help="Masks of the patches.")] = "random",
    weights: Annotated[
        str | None, typer.Option(help='Factors of a..f: "w,w,w,w,w,w", or one vector per map as "..;..".')
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random patch masks.")] = 0,
) -> None:
    """Draw one IFS exactly as the published renderer does."""
    from fracgen.cli import report
    from fracgen.ifs import load_ifs
    from fracgen.renderer import draw_ifs, parse_weights
    from fracgen.rng import MAX_SEED, stream_key
    from fracgen.shards.png import encode_png
    from fracgen.style import Style, check_range, fill_rate

    check_range("seed", seed, 0, MAX_SEED)
    style = Style(size=size, pad=pad, points=points, draw=draw, color=color, patch=patch)
    system = load_ifs(source)
    factors = None if weights is None else parse_weights(weights)
    image = draw_ifs(system, style, weights=factors, mask_key=stream_key(seed, 0, "masks"))
    report.write_file(out, encode_png(image))
    print(f"{out}: {size} x {size}, fill rate {fill_rate(image):.4f}, sigma-factor {system.sigma:.4f}")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of shards.")], as_json: Json = False
) -> None:
    """Show what a folder holds: recipe, counts, sizes, rejections."""
    from fracgen.cli import report
    from fracgen.shards.manifest import load_manifest

    report.inspected(folder, load_manifest(folder), as_json=as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of shards.")],
    render: Annotated[
        bool, typer.Option("--render", help="Also render some images again and compare their pixels.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Images that --render renders.", min=1)] = 16,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Check file and pixel hashes, tar structure, counts, labels and decodability; exit 1 names what is bad."""
    from fracgen.cli import report
    from fracgen.rerender import differing_samples
    from fracgen.shards.files import num_cores
    from fracgen.shards.reader import open_shards
    from fracgen.shards.verify import verify_folder

    shards = open_shards(folder)
    if render and shards.manifest.image.original:
        raise UsageError(f"--render: the images of {folder} were packed, not rendered; leave it out")
    with report.status(f"verifying {folder}"):
        problems = verify_folder(shards, workers=workers or num_cores())
        if render:
            problems += differing_samples(shards, samples)
    again = min(samples, len(shards)) if render else 0
    report.verified(shards.manifest, problems, rendered=again, as_json=as_json)
    if problems:
        raise typer.Exit(DataError.exit_code)


@app.command()
def preview(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of shards.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="PNG to write.  [default: DIR-preview.png]")] = None,
    tile: Annotated[int, typer.Option(help="Pixels of a tile.", min=32, max=1024)] = 384,
) -> None:
    """Draw a contact sheet: some classes, several images of each, and what makes them differ."""
    from fracgen.cli import report
    from fracgen.preview import packed_sheet, recipe_sheet
    from fracgen.registry import from_dict
    from fracgen.shards.reader import open_shards

    shards = open_shards(folder)
    original, recipe = shards.manifest.image.original, shards.manifest.recipe
    path = out or folder.resolve().with_name(f"{folder.resolve().name}-preview.png")
    sheet = packed_sheet(shards, tile) if original else recipe_sheet(from_dict(recipe, folder), tile)
    report.write_file(path, sheet)
    print(path)


@app.command()
def bench(
    images: Annotated[
        int, typer.Option(help="Images rendered end to end, for each number of cores.", min=8, max=10_000)
    ] = 256,
    repeats: Annotated[int, typer.Option(help="Repeats of each step; the median counts.", min=3)] = 50,
    plain: Annotated[bool, typer.Option(help="Also time the published loop in plain Python.")] = True,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Measure the category search and every data set end to end instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure ms per image and images/s: of 1p-frac's steps, or of all data sets end to end."""
    from fracgen import benchmark
    from fracgen.cli import report
    from fracgen.shards.files import num_cores

    with report.status("measuring"):
        if baselines:
            table = benchmark.measure_baselines(images=images, cores=num_cores())
        else:
            table = benchmark.measure(images=images, repeats=repeats, cores=num_cores(), plain=plain)
    report.measured(table, as_json=as_json)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("fracgen"))
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code. What the user can mend becomes one line on stderr."""
    try:
        code = app(list(arguments), prog_name="fracgen", standalone_mode=False)
    except FracgenError as error:
        return _fail(str(error), error.exit_code)
    except _CommandLineError as error:
        return _fail(f"{error.format_message()} ('fracgen --help' lists what there is)", UsageError.exit_code)
    except MemoryError:
        return _fail("out of memory; lower --size, --points or --workers", DataError.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return DataError.exit_code
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", DataError.exit_code)
    if code == InterruptError.exit_code:
        return _fail("interrupted", code)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"fracgen: {' '.join(message.split())}", file=sys.stderr)
    return code
