"""The command line: words in, a recipe out, the result printed. Thin; what a command needs is imported when it runs."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from shards.errors import DataError, FracgenError, UsageError

app = typer.Typer(
    help="Synthetic pre-training data from formulas: exact, fast, reproducible to the byte.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


class InterruptError(FracgenError):
    """Ctrl-C, with what it leaves behind."""

    exit_code = 130


_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's base of all errors in the words of a command line; typer brings its own click, or not, by version."""


DrawOption = Literal["patch", "point"]
ColorOption = Literal["gray", "color"]
PatchOption = Literal["random", "fill"]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Workers = Annotated[int | None, typer.Option(help="Threads.  [default: all cores]", min=1)]


@app.command()
def render(
    context: typer.Context,
    sigma: Annotated[
        float | None, typer.Option(help="Sigma-factor of the base fractal, in (0, 3 maps].  [default: 3.5]")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Width of the perturbation, >= 0.  [default: 0.1]")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Number L of perturbed classes, one image each.  [default: 1000]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.  [default: 0]")] = None,
    size: Annotated[int | None, typer.Option(help="Image width and height in pixels.  [default: 512]")] = None,
    pad: Annotated[int | None, typer.Option(help="Border in pixels.  [default: 6]")] = None,
    points: Annotated[int | None, typer.Option(help="Points of an orbit.  [default: 100000]")] = None,
    maps: Annotated[int | None, typer.Option(help="Affine maps of the base fractal.  [default: 2]")] = None,
    perturbation: Annotated[
        Literal["additive", "multiplicative"] | None,
        typer.Option(
            help="Add U(-delta/2, delta/2) (paper), or multiply by U(1-delta, 1+delta) (code).  [default: additive]"
        ),
    ] = None,
    draw: Annotated[DrawOption | None, typer.Option(help="3 x 3 patches or single pixels.  [default: patch]")] = None,
    color: Annotated[ColorOption | None, typer.Option(help="Gray, or hue by point.  [default: gray]")] = None,
    patch: Annotated[PatchOption | None, typer.Option(help="Masks of the patches.  [default: random]")] = None,
    masks: Annotated[
        Literal["class", "shared"] | None,
        typer.Option(help="Random masks of each class's own, or shared by all classes.  [default: class]"),
    ] = None,
    min_fill: Annotated[
        float | None, typer.Option(help="Keep images that fill more than this share.  [default: 0.05]")
    ] = None,
    max_tries: Annotated[int | None, typer.Option(help="Perturbations tried for a class.  [default: 100]")] = None,
    base_candidates: Annotated[
        int | None, typer.Option(help="Bases of which the one is taken whose perturbations pass most.  [default: 8]")
    ] = None,
    min_acceptance: Annotated[
        float | None, typer.Option(help="Share of its perturbations that must pass.  [default: 0.5]")
    ] = None,
    max_base_tries: Annotated[int | None, typer.Option(help="Base fractals tried.  [default: 1000]")] = None,
    ifs: Annotated[
        Path | None, typer.Option(help="Base fractal instead of --sigma: category CSV, our JSON, or rendered folder.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; the other options override it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write or to resume.  [default: named after the recipe]")
    ] = None,
    workers: Workers = None,
    shards: Annotated[int | None, typer.Option(help="Number of tars.  [default: 64, more for big sets]", min=1)] = None,
    png_bits: Annotated[int, typer.Option(help="Bits a pixel: 8, or 1 (small; readers see 0 and 255).")] = 8,
    any_versions: Annotated[bool, typer.Option(help="Resume though versions of the libraries changed.")] = False,
    as_json: Json = False,
) -> None:
    """Render 1p-frac: one fractal, perturbed into L classes, as WebDataset shards.

    Run it again after any interruption: it goes on, and the folder ends the same to the byte.
    """
    from fracgen import report
    from fracgen.generate import num_cores, plan, write_shards
    from fracgen.ifs import load_ifs
    from fracgen.onepfrac import OnePFrac
    from fracgen.recipes import from_dict, load_recipe

    names = [field.name for field in fields(OnePFrac) if field.name != "ifs"]
    options = {name: value for name in names if (value := context.params[name]) is not None}
    if ifs is not None:
        if sigma is not None or maps is not None:
            raise UsageError("--ifs gives the base fractal, so it excludes --sigma and --maps; leave them out")
        options["ifs"] = load_ifs(ifs)
    elif sigma is not None or maps is not None:
        options["ifs"] = None
    wanted = load_recipe(recipe, options) if recipe is not None else from_dict(options)
    folder = out
    try:
        with report.status("looking for a base fractal"):
            resolved, provenance = wanted.resolve()
        folder = out or report.default_folder(resolved)
        for warning in resolved.warnings(provenance):
            report.warn(warning)
        layout = plan(resolved, num_shards=shards, png_bits=png_bits)
        with report.Progress(layout, enabled=not as_json) as progress:
            result = write_shards(
                resolved,
                folder,
                layout=layout,
                provenance=provenance,
                workers=workers or num_cores(),
                any_versions=any_versions,
                on_shard=progress.advance,
            )
    except KeyboardInterrupt:
        kept = f"finished shards are kept in {folder}" if folder and folder.exists() else "nothing was written"
        raise InterruptError(f"interrupted; {kept}; run the same command to go on") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{folder}: {reason}; finished shards are kept, run the same command to go on") from error
    report.rendered(result, as_json=as_json)


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
    from fracgen import report
    from fracgen.draw import Style, check_range, draw_ifs, fill_rate, parse_weights
    from fracgen.ifs import load_ifs
    from fracgen.rng import MAX_SEED, stream_key
    from shards.codec import encode_png

    check_range("seed", seed, 0, MAX_SEED)
    style = Style(size=size, pad=pad, points=points, draw=draw, color=color, patch=patch)
    system = load_ifs(source)
    factors = None if weights is None else parse_weights(weights)
    image = draw_ifs(system, style, weights=factors, mask_key=stream_key(seed, 0, "masks"))
    report.write_file(out, encode_png(image))
    print(f"{out}: {size} x {size}, fill rate {fill_rate(image):.4f}, sigma-factor {system.sigma:.4f}")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A rendered folder.")], as_json: Json = False
) -> None:
    """Show what a folder holds: recipe, counts, sizes, rejections."""
    from fracgen import report
    from shards.manifest import load_manifest

    report.inspected(folder, load_manifest(folder), as_json=as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A rendered folder.")],
    render: Annotated[
        bool, typer.Option("--render", help="Also render some images again and compare their pixels.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Images that --render renders.", min=1)] = 16,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Check file and pixel hashes, tar structure, counts, labels and decodability; exit 1 names what is bad."""
    from fracgen import report
    from fracgen.generate import num_cores
    from fracgen.recheck import differing_samples
    from shards.reader import open_shards
    from shards.verify import verify_folder

    shards = open_shards(folder)
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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A rendered folder.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="PNG to write.  [default: DIR-preview.png]")] = None,
    tile: Annotated[int, typer.Option(help="Pixels of a tile.", min=32, max=1024)] = 384,
) -> None:
    """Draw a contact sheet: the base fractal, perturbed ones, and how they differ from it."""
    from fracgen import report
    from fracgen.preview import contact_sheet
    from fracgen.recipes import from_dict
    from shards.manifest import load_manifest

    recipe = from_dict(load_manifest(folder).recipe)
    path = out or folder.resolve().with_name(f"{folder.resolve().name}-preview.png")
    report.write_file(path, contact_sheet(recipe.preview(), tile))
    print(path)


@app.command()
def bench(
    images: Annotated[
        int, typer.Option(help="Images rendered end to end, for each number of cores.", min=8, max=10_000)
    ] = 256,
    repeats: Annotated[int, typer.Option(help="Repeats of each step; the median counts.", min=3)] = 50,
    plain: Annotated[bool, typer.Option(help="Also time the published loop in plain Python.")] = True,
    as_json: Json = False,
) -> None:
    """Measure ms per image and images/s of every step, and end to end on one core and on all."""
    from fracgen import benchmark, report
    from fracgen.generate import num_cores

    with report.status("measuring"):
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
