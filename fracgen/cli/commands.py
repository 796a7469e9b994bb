"""The commands that write: rendering, parts and their merging, packing; and the category search."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from fracgen.shards.errors import DataError, FracgenError, UsageError

if TYPE_CHECKING:
    from fracgen.categories import Categories as FoundCategories
    from fracgen.recipe import Recipe
    from fracgen.search import Search


class InterruptError(FracgenError):
    """Ctrl-C, with what it leaves behind."""

    exit_code = 130


DrawOption = Literal["patch", "point"]
ColorOption = Literal["gray", "color"]
PatchOption = Literal["random", "fill"]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Workers = Annotated[int | None, typer.Option(help="Threads.  [default: all cores]", min=1)]

# What every recipe may have. None stands for the recipe's own default, so that a recipe file's value is not overridden.
Classes = Annotated[int | None, typer.Option(help="Number of classes.  [default: 1000]")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything that is drawn.  [default: 0]")]
MaskSeed = Annotated[int | None, typer.Option(help="Seed of the patch masks; categories have their own.  [default: 0]")]
Size = Annotated[int | None, typer.Option(help="Image width and height in pixels.  [default: 512]")]
Size362 = Annotated[int | None, typer.Option(help="Image width and height in pixels.  [default: 362]")]
Pad = Annotated[int | None, typer.Option(help="Border in pixels.  [default: 6]")]
Points = Annotated[int | None, typer.Option(help="Points of an orbit.  [default: 100000]")]
CloudPoints = Annotated[int | None, typer.Option(help="Points of a cloud.  [default: 100000]")]
Points200 = Annotated[int | None, typer.Option(help="Points of an orbit.  [default: 200000]")]
Draw = Annotated[DrawOption | None, typer.Option(help="3 x 3 patches or single pixels.  [default: patch]")]
Color = Annotated[ColorOption | None, typer.Option(help="Gray, or hue by point.  [default: gray]")]
Patch = Annotated[PatchOption | None, typer.Option(help="Masks of the patches.  [default: random]")]
Categories = Annotated[int | None, typer.Option(help="Number of categories, each a class.  [default: 1000]")]
CategoriesFrom = Annotated[
    Path | None,
    typer.Option(help="Folder of category files 00000.csv ... instead of searching; all of them by default."),
]

AnyVersions = Annotated[bool, typer.Option(help="Go on though versions of the libraries changed.")]


class Output:
    """Where to, and on what: options of every command that renders. No pixel depends on them."""

    recipe_file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML recipe, or a rendered folder; other options override it.")
    ] = None
    out: Annotated[
        Path | None, typer.Option(help="Folder to write or to resume.  [default: named after the recipe]")
    ] = None
    workers: Workers = None
    shards: Annotated[int | None, typer.Option(help="Number of tars.  [default: 64, more for big sets]", min=1)] = None
    png_bits: Annotated[int, typer.Option(help="Bits a pixel: 8, or 1 (small; readers see 0 and 255).")] = 8
    metadata: Annotated[bool, typer.Option(help="Store with each image what made it.")] = True
    any_versions: AnyVersions = False
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler to render on, as tcp://host:8786.")] = None
    only: Annotated[
        str | None, typer.Option(metavar="I/N", help="Render part I of N only; `fracgen merge` finishes the folder.")
    ] = None
    as_json: Json = False


def _with_output(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Output`, after its own; its body finds them in the context."""

    @functools.wraps(command)
    def with_output(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name in own})

    own = inspect.signature(command).parameters
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Output, name), annotation=kind)
        for name, kind in Output.__annotations__.items()
    ]
    with_output.__signature__ = inspect.Signature([*own.values(), *added])  # type: ignore[attr-defined]
    with_output.__annotations__ = {**command.__annotations__, **Output.__annotations__}
    return with_output


baseline = typer.Typer(rich_markup_mode=None)


@baseline.callback(invoke_without_command=True)
def _baselines(context: typer.Context) -> None:
    """Render what 1p-frac is compared with: FractalDB, OFDB, VisualAtom, noise."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(render)
    app.command()(photo)
    app.add_typer(baseline, name="baseline")
    for command in (search, merge, pack):
        app.command()(command)


@_with_output
def render(
    context: typer.Context,
    sigma: Annotated[
        float | None, typer.Option(help="Sigma-factor of the base fractal, in (0, 3 maps].  [default: 3.5]")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Width of the perturbation, >= 0.  [default: 0.1]")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Number L of perturbed classes, one image each.  [default: 1000]")
    ] = None,
    seed: Seed = None,
    size: Size = None,
    pad: Pad = None,
    points: Points = None,
    maps: Annotated[int | None, typer.Option(help="Affine maps of the base fractal.  [default: 2]")] = None,
    perturbation: Annotated[
        Literal["additive", "multiplicative"] | None,
        typer.Option(
            help="Add U(-delta/2, delta/2) (paper), or multiply by U(1-delta, 1+delta) (code).  [default: additive]"
        ),
    ] = None,
    draw: Draw = None,
    color: Color = None,
    patch: Patch = None,
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
) -> None:
    """Render 1p-frac: one fractal, perturbed into L classes, as WebDataset shards. With --recipe, any data set.

    Run it again after any interruption: it goes on, and the folder ends the same to the byte.
    """
    from fracgen.ifs import load_ifs

    if ifs is not None and (sigma is not None or maps is not None):
        raise UsageError("--ifs gives the base fractal, so it excludes --sigma and --maps; leave them out")
    if ifs is not None:
        _render(context, ifs=load_ifs(ifs))
    elif sigma is not None or maps is not None:
        _render(context, ifs=None)
    else:
        _render(context)


@baseline.command()
@_with_output
def fractaldb(
    context: typer.Context,
    categories: Categories = None,
    instances: Annotated[
        int | None, typer.Option(help="Drawings of each weight vector, with patches of their own.  [default: 10]")
    ] = None,
    weights: Annotated[float | None, typer.Option(help="Step of the 25 weight vectors.  [default: 0.4]")] = None,
    size: Size362 = None,
    pad: Pad = None,
    points: Points200 = None,
    draw: Draw = None,
    color: Color = None,
    patch: Patch = None,
    seed: MaskSeed = None,
    categories_from: CategoriesFrom = None,
) -> None:
    """Render FractalDB: categories x 25 weight vectors x instances x 4 flips; 1000 x 1000 images by default."""
    _render(context, "fractaldb", **_given_categories(categories_from, categories))


@baseline.command()
@_with_output
def ofdb(
    context: typer.Context,
    categories: Categories = None,
    weights: Annotated[
        Literal["identity", "published"] | None,
        typer.Option(help="The system as it was found, or a x 0.2 as in the published script.  [default: identity]"),
    ] = None,
    size: Size362 = None,
    pad: Pad = None,
    points: Points200 = None,
    draw: Draw = None,
    color: Color = None,
    patch: Patch = None,
    seed: MaskSeed = None,
    categories_from: CategoriesFrom = None,
) -> None:
    """Render OFDB: one image a category of FractalDB."""
    _render(context, "ofdb", **_given_categories(categories_from, categories))


@baseline.command()
@_with_output
def visualatom(
    context: typer.Context,
    classes: Classes = None,
    instances: Annotated[int | None, typer.Option(help="Images of each class.  [default: 1000]")] = None,
    size: Size = None,
    seed: Seed = None,
    min_vertices: Annotated[int | None, typer.Option(help="Vertices of an orbit, least.  [default: 200]")] = None,
    max_vertices: Annotated[int | None, typer.Option(help="Vertices of an orbit, most.  [default: 1000]")] = None,
    min_orbits: Annotated[int | None, typer.Option(help="Orbits, least.  [default: 1]")] = None,
    max_orbits: Annotated[int | None, typer.Option(help="Orbits, most.  [default: 200]")] = None,
    max_noise: Annotated[float | None, typer.Option(help="Amplitude of the noise, most.  [default: 4]")] = None,
    max_line_offset: Annotated[float | None, typer.Option(help="Line offset in pixels, most.  [default: 0.1]")] = None,
    min_radius: Annotated[int | None, typer.Option(help="Radius of the start in pixels, least.  [default: 10]")] = None,
    max_radius: Annotated[int | None, typer.Option(help="Radius of the start in pixels, most.  [default: 60]")] = None,
    max_waves: Annotated[int | None, typer.Option(help="Waves a turn, most.  [default: 20]")] = None,
    min_ellipse: Annotated[float | None, typer.Option(help="Factor of an axis, least.  [default: 1]")] = None,
    max_ellipse: Annotated[float | None, typer.Option(help="Factor of an axis, most.  [default: 2]")] = None,
    gradients: Annotated[
        Literal["signed", "library"] | None,
        typer.Option(help="Of the Perlin noise: as it is meant, or as noise 1.2.2 computes it.  [default: signed]"),
    ] = None,
) -> None:
    """Render VisualAtom: orbits of gray lines around a centre; 1000 x 1000 images by default."""
    _render(context, "visualatom")


@baseline.command()
@_with_output
def noise(
    context: typer.Context,
    kind: Annotated[
        Literal["gaussian", "uniform", "pixel-gaussian", "pixel-uniform"] | None,
        typer.Option(help="Patches at random places; or, without patches, random pixels.  [default: gaussian]"),
    ] = None,
    classes: Classes = None,
    size: Size = None,
    pad: Pad = None,
    points: CloudPoints = None,
    std: Annotated[
        float | None, typer.Option(help="Of the Gaussian, as a share of the width or the levels.  [default: 0.125]")
    ] = None,
    cloud: Annotated[
        Literal["class", "shared"] | None,
        typer.Option(help="A cloud of each class's own, or one whose points each class moves.  [default: class]"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Share of the width within which shared points move.  [default: 0.1]")
    ] = None,
    seed: Seed = None,
) -> None:
    """Render noise, the structure-free controls: one image a class. The numbers are ours: none were published."""
    _render(context, "noise")


@_with_output
def photo(
    context: typer.Context,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="One photograph or several, in any format.")
    ] = None,
    look: Annotated[
        Literal["canny", "gray", "rgb"] | None, typer.Option(help="White edges, gray, or colours.  [default: canny]")
    ] = None,
    warp: Annotated[
        Literal["affine", "perspective", "polynomial", "elastic", "crops"] | None,
        typer.Option(help="What makes a class.  [default: affine]"),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Width of the warps' numbers; 1 is half of the picture, for elastic a cell.  [default: 0.5]"),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Warps of each photograph, each a class.  [default: 1000]")
    ] = None,
    size: Size = None,
    seed: Seed = None,
    blur: Annotated[
        float | None, typer.Option(help="Sigma of Canny's Gaussian in pixels.  [default: derived from the photograph]")
    ] = None,
    low: Annotated[float | None, typer.Option(help="Low threshold of Canny.  [default: 0.4 of the high one]")] = None,
    high: Annotated[
        float | None, typer.Option(help="High threshold of Canny.  [default: a fifth of the gradients exceed it]")
    ] = None,
    cells: Annotated[int | None, typer.Option(help="Of an elastic warp, along a side.  [default: 4]")] = None,
    min_fill: Annotated[
        float | None, typer.Option(help="Share that a warp must cover, and show of the photograph.  [default: 0.25]")
    ] = None,
    max_tries: Annotated[int | None, typer.Option(help="Warps tried for a class.  [default: 100]")] = None,
    min_scale: Annotated[
        float | None, typer.Option(help="Crops: least area, as a share of the photograph's.  [default: 0.002]")
    ] = None,
    max_scale: Annotated[float | None, typer.Option(help="Crops: greatest area.  [default: 0.25]")] = None,
    max_ratio: Annotated[
        float | None, typer.Option(help="Crops: sides up to this to one, either way.  [default: 1.333]")
    ] = None,
    rotation: Annotated[float | None, typer.Option(help="Crops: degrees, either way.  [default: 30]")] = None,
    shear: Annotated[float | None, typer.Option(help="Crops: degrees, either way.  [default: 30]")] = None,
    flip: Annotated[float | None, typer.Option(help="Crops: probability of a mirror image.  [default: 0.5]")] = None,
    brightness: Annotated[
        float | None, typer.Option(help="Crops: factors of 1 - this to 1 + this.  [default: 0.4]")
    ] = None,
    contrast: Annotated[
        float | None, typer.Option(help="Crops: factors of 1 - this to 1 + this.  [default: 0.4]")
    ] = None,
    saturation: Annotated[
        float | None, typer.Option(help="Crops: factors of 1 - this to 1 + this.  [default: 0.4]")
    ] = None,
    hue: Annotated[float | None, typer.Option(help="Crops: share of a turn, either way.  [default: 0.1]")] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Photographs are reduced to this many pixels first.  [default: 2048]")
    ] = None,
) -> None:
    """Render one real image, or several: its edges, warped into L classes. Ranges and thresholds are ours.

    A rendered folder has its photographs in it: `fracgen photo --recipe DIR` needs no others.
    """
    from fracgen.photo.opencv import opencv

    opencv().setNumThreads(1)  # this process has a thread a core already; alone in a process, nobody else is slowed
    _render(context, "photo", **_given_photographs(images or [], max_side))


def search(
    categories: Annotated[int, typer.Option(help="Number of categories.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for 00000.csv and on, as the published tools read.")] = None,
    seed: Annotated[int, typer.Option(help="Of numpy's legacy generator; the published search has 1.")] = 1,
    min_fill: Annotated[float, typer.Option(help="Least share of pixels that a category fills.")] = 0.2,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Search FractalDB's categories, the published ones by default. What is found is kept, and found once.

    Run it again after any interruption, or for more categories: it goes on.
    """
    from fracgen.categories import check_category_folder, write_categories
    from fracgen.cli import report
    from fracgen.search import Search

    wanted = Search(seed=seed, min_fill=min_fill)
    if out is not None:
        check_category_folder(out)
    found, provenance, kept = _search(wanted, categories, workers, quiet=as_json)
    if out is not None:
        write_categories(found, out)
    report.searched(len(found), provenance, out, kept=kept, as_json=as_json)


def _search(
    wanted: "Search", count: int, workers: int | None, *, quiet: bool
) -> tuple["FoundCategories", dict[str, Any], bool]:
    """Search with a progress bar: the categories, their provenance, and whether they are kept for the next time."""
    from fracgen.cli import report
    from fracgen.machine import cache_folder
    from fracgen.search import find_categories
    from fracgen.shards.files import num_cores

    cache = cache_folder()
    try:
        with report.SearchProgress(count, enabled=not quiet) as progress:
            found, provenance = find_categories(
                count, wanted, workers=workers or num_cores(), cache=cache, on_progress=progress.advance
            )
    except KeyboardInterrupt:
        kept_so_far = (
            "what was found is kept" if wanted.is_cached(cache) else "nothing was found yet, or it cannot be kept"
        )
        raise InterruptError(f"interrupted; {kept_so_far}; run the same command to go on") from None
    if not (kept := wanted.is_cached(cache)):
        report.warn(f"{cache}: cannot be written, so the next search begins anew; set FRACGEN_CACHE")
    return found, provenance, kept


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder whose parts are rendered (--only).")],
    any_versions: AnyVersions = False,
    as_json: Json = False,
) -> None:
    """Finish a folder that was rendered in parts: write its manifest, or say which shards are missing."""
    from fracgen.cli import report
    from fracgen.render_shards import merge

    with _telling(folder):
        result = merge(folder, any_versions=any_versions)
    report.rendered(result, where="", as_json=as_json)


def pack(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images: FOLDER/SPLIT/CLASS/*.jpg.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to pack; may be given again for others.  [default: FOLDER/CLASS/*.jpg, as train]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write or to resume; with --split, OUT/SPLIT is.  [default: FOLDER's name-shards]"),
    ] = None,
    name: Annotated[str, typer.Option(help="Begins the tars' names.")] = "images",
    seed: Annotated[int, typer.Option(help="Of the order of the images.", min=0)] = 0,
    shards: Annotated[
        int | None, typer.Option(help="Number of tars.  [default: 64, more for big sets, fewer for small]", min=1)
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no images or damaged, and count them.")
    ] = False,
    workers: Workers = None,
    metadata: Annotated[bool, typer.Option(help="Store with each image its file's name, format, size, mode.")] = True,
    any_versions: AnyVersions = False,
    as_json: Json = False,
) -> None:
    """Pack a folder of images, a folder a class, into shards: the files as they are, a label the class's place.

    Run it again after any interruption: it goes on, and the folder ends the same to the byte.
    """
    from fracgen.cli import report
    from fracgen.pack import check_siblings, emptied_classes, plan
    from fracgen.pack import pack as pack_images
    from fracgen.shards.files import num_cores
    from fracgen.shards.imagefolder import PACKED_EXTENSIONS, check_same_classes, find_split, list_images

    splits: list[str | None] = [*split] if split else [None]
    results = []
    if len(set(splits)) < len(splits):
        raise UsageError(f"--split {' '.join(map(str, splits))}: each once")
    with report.status(f"listing {folder}"):
        found = {
            each: list_images(find_split(folder, each), split=each, extensions=PACKED_EXTENSIONS) for each in splits
        }
    check_same_classes(list(found.values()))
    home = out or Path(f"{folder.resolve().name}-shards")
    for each, images in found.items():
        if each:
            check_siblings(images, home / each)
    for each, images in found.items():
        where = home / each if each else home
        layout = plan(images, split=each or "train", name=name, num_shards=shards, seed=seed, keep_metadata=metadata)
        for line in images.passed_over():
            report.warn(f"{images.root}: {line}")
        with _telling(where), report.Progress(layout, enabled=not as_json) as progress:
            result = pack_images(
                images,
                where,
                layout,
                skip_bad=skip_bad,
                workers=workers,
                any_versions=any_versions,
                on_shard=progress.advance,
            )
        assert result.manifest is not None
        if emptied := emptied_classes(images, result.manifest):
            report.warn(f"{where}: every image of {', '.join(emptied[:8])} was left out")
        results.append(result)
    report.packed(results, where=f"{workers or num_cores()} threads", as_json=as_json)


def _given_categories(folder: Path | None, count: int | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from fracgen.categories import load_categories

    systems = load_categories(folder, count=count)
    return {"systems": systems, "categories": len(systems)}


def _given_photographs(paths: list[Path], max_side: int | None) -> dict[str, Any]:
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


def _render(context: typer.Context, name: str | None = None, **given: Any) -> None:
    """Render the recipe `name` (or whichever a recipe file holds) with the options of a command; `given` wins."""
    from fracgen.cli import report
    from fracgen.registry import from_dict, load_recipe
    from fracgen.render_shards import plan, write_shards
    from fracgen.shards.layout import Part

    words = context.params
    others = {*Output.__annotations__, "ifs", "categories_from", "images", "max_side"}
    options = {key: value for key, value in words.items() if key not in others and value is not None}
    options |= given
    part = None if words["only"] is None else Part.parse(words["only"])
    if words["recipe_file"] is not None:
        wanted = load_recipe(words["recipe_file"], options, name=name)
    else:
        wanted = from_dict({"recipe": name, **options} if name else options)
    with _telling(words["out"]) as folder, _executor(words["scheduler"], words["workers"]) as (executor, where):
        resolved, provenance = _resolve(wanted, words["workers"], quiet=words["as_json"])
        folder.append(words["out"] or report.default_folder(resolved))
        for warning in resolved.warnings(provenance):
            report.warn(warning)
        layout = plan(resolved, num_shards=words["shards"], png_bits=words["png_bits"], keep_metadata=words["metadata"])
        with report.Progress(layout, part, enabled=not words["as_json"]) as progress:
            result = write_shards(
                resolved,
                folder[-1],
                layout=layout,
                provenance=provenance,
                executor=executor,
                part=part,
                any_versions=words["any_versions"],
                on_shard=progress.advance,
            )
    report.rendered(result, where=where, as_json=words["as_json"])


def _resolve(wanted: "Recipe", workers: int | None, *, quiet: bool) -> tuple["Recipe", dict[str, Any]]:
    from fracgen.cli import report
    from fracgen.fractaldb import CategoryRecipe
    from fracgen.search import Search

    if isinstance(wanted, CategoryRecipe) and wanted.systems is None:
        found, provenance, _ = _search(Search(), wanted.categories, workers, quiet=quiet)
        return wanted.with_found(found, provenance)
    with report.status(f"resolving the recipe of {wanted.NAME}"):
        return wanted.resolve()


@contextlib.contextmanager
def _executor(scheduler: str | None, workers: int | None) -> Iterator[tuple[Executor, str]]:
    """What renders, and its name."""
    from fracgen.shards.files import num_cores

    if scheduler is None:
        threads = workers or num_cores()
        pool = ThreadPoolExecutor(threads)
        try:
            yield pool, f"{threads} threads"
        finally:
            pool.shutdown(cancel_futures=True)
        return
    if workers is not None:
        raise UsageError("--workers is for threads of this machine; a cluster's are set where it is started")
    from fracgen.cluster import connect

    with connect(scheduler) as executor:
        yield executor, scheduler


@contextlib.contextmanager
def _telling(out: Path | None) -> Iterator[list[Path]]:
    """What an interrupt or a full disk leaves behind, in one line. The list that it yields takes the folder's name."""
    folders = [out] if out else []
    try:
        yield folders
    except KeyboardInterrupt:
        _interrupted(folders)
    except OSError as error:
        where = error.filename or (folders[-1] if folders else "here")
        raise DataError(
            f"{where}: {error.strerror or error}; finished shards are kept, run the same command to go on"
        ) from error


def _interrupted(folders: list[Path]) -> NoReturn:
    there = folders and folders[-1].exists()
    kept = f"finished shards are kept in {folders[-1]}" if there else "nothing was written"
    raise InterruptError(f"interrupted; {kept}; run the same command to go on") from None
