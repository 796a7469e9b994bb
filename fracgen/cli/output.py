"""What all commands that write shards share: where to, on what, and what an interrupt leaves behind."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from fracgen.shards.commandline import is_out_of_memory, options_from
from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.settings import Setting, check_settings

if TYPE_CHECKING:
    from fracgen.recipe import Recipe


class InterruptError(FracgenError):
    """Ctrl-C, with what it leaves behind."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where to, and on what: options of every command that renders, some of them of others too.

    No pixel depends on them.
    """

    recipe_file: Annotated[
        Path | None,
        Setting("YAML recipe, or a rendered folder; other options override it.", option="--recipe", panel="Output"),
    ] = None
    out: Annotated[
        Path | None,
        Setting("Folder to write or to resume.", panel="Output", default="named after the recipe"),
    ] = None
    shards: Annotated[
        int | None,
        Setting("Number of tars.", at_least=1, panel="Output", default="64, fewer for small sets, more for big ones"),
    ] = None
    png_bits: Annotated[
        Literal[8, 1], Setting("Bits a pixel; 1 is small, and readers see 0 and 255.", panel="Output")
    ] = 8
    metadata: Annotated[bool, Setting("Store with each image what made it.", panel="Output")] = True
    as_json: Annotated[bool, Setting("Print the result as JSON.", option="--json", panel="Output")] = False
    workers: Annotated[int | None, Setting("Threads.", at_least=1, panel="Machine", default="all cores")] = None
    scheduler: Annotated[
        str | None, Setting("Dask scheduler to render on, as tcp://host:8786.", panel="Machine", metavar="<address>")
    ] = None
    only: Annotated[
        str | None,
        Setting("Render part I of N only; `fracgen merge` finishes the folder.", panel="Machine", metavar="<I/N>"),
    ] = None
    any_versions: Annotated[bool, Setting("Go on though versions of the libraries changed.", panel="Machine")] = False

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)


def output_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `Output`, all or those of these fields; it receives that as `output`."""
    return options_from(Output, names or None, into="output", build=True)


def recipe_options(kind: type["Recipe"]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a recipe, as its argument `values`, and those of `Output`, as `output`."""
    return lambda command: options_from(kind, into="values")(output_options()(command))


def render_recipe(name: str | None, values: Mapping[str, Any], output: Output) -> None:
    """Render the recipe `name` with these values; without a name, 1p-frac or whichever a recipe file holds."""
    from fracgen.cli import report
    from fracgen.cli.progress import RenderProgress
    from fracgen.registry import default_folder, from_dict, load_recipe
    from fracgen.render_shards import plan, write_shards
    from fracgen.shards.layout import Part

    part = None if output.only is None else Part.parse(output.only)
    if output.recipe_file is not None:
        recipe = load_recipe(output.recipe_file, values, name=name)
    else:
        recipe = from_dict({"recipe": name, **values} if name else values)
    with interruptible(output.out) as folders, _executor(output) as (executor, machine):
        shards: dict[str, Any] = {
            "num_shards": output.shards,
            "png_bits": output.png_bits,
            "keep_metadata": output.metadata,
        }
        plan(recipe, **shards)  # what is not possible is said before anything is searched
        resolved, provenance = resolve_recipe(recipe, output)
        folders.append(output.out or default_folder(resolved))
        for warning in resolved.warnings(provenance):
            report.warn(warning)
        layout = plan(resolved, **shards, folder=folders[-1])
        with RenderProgress(layout, part, enabled=not output.as_json) as progress:
            result = write_shards(
                resolved,
                folders[-1],
                layout=layout,
                provenance=provenance,
                executor=executor,
                part=part,
                any_versions=output.any_versions,
                on_shard=progress.advance,
            )
    report.rendered(result, machine=machine, as_json=output.as_json)


def resolve_recipe(recipe: "Recipe", output: Output) -> tuple["Recipe", dict[str, Any]]:
    """The resolved recipe and its provenance, with a progress bar where categories are searched."""
    from fracgen.cli.progress import status

    of_categories: Any = recipe
    if hasattr(recipe, "search") and of_categories.systems is None:
        count = of_categories.categories
        systems, provenance, _ = find_categories(of_categories.search, count, output.workers, quiet=output.as_json)
        resolved: tuple[Recipe, dict[str, Any]] = of_categories.with_systems(systems, provenance)
        return resolved
    with status(f"resolving the recipe of {recipe.NAME}"):
        return recipe.resolve()


def find_categories(
    conditions: Any, count: int, workers: int | None, *, quiet: bool
) -> tuple[Any, dict[str, Any], bool]:
    """Search with a progress bar: the categories, their provenance, and whether they are kept for the next time.

    conditions: settings of a search, of FractalDB's (`Search`) or of ExFractalDB's (`SpatialSearch`).
    """
    from fracgen import search
    from fracgen.cli import report
    from fracgen.cli.progress import SearchProgress
    from fracgen.shards.files import cache_folder, num_cores

    cache = cache_folder()
    try:
        with SearchProgress(count, enabled=not quiet) as progress:
            systems, provenance = search.find_categories(
                count, conditions, workers=workers or num_cores(), cache=cache, on_progress=progress.advance
            )
    except KeyboardInterrupt:
        kept = (
            "what was found is kept" if conditions.is_cached(cache) else "nothing was found yet, or it cannot be kept"
        )
        raise InterruptError(f"interrupted; {kept}; run the same command to go on") from None
    if not (is_kept := conditions.is_cached(cache)):
        report.warn(f"{cache}: cannot be written, so the next search begins anew; set FRACGEN_CACHE")
    return systems, provenance, is_kept


@contextlib.contextmanager
def _executor(output: Output) -> Iterator[tuple[Executor, str]]:
    """What renders, and its name."""
    from fracgen.shards.files import num_cores

    if output.scheduler is None:
        threads = output.workers or num_cores()
        pool = ThreadPoolExecutor(threads)
        try:
            yield pool, f"{threads} threads"
        finally:
            pool.shutdown(cancel_futures=True)
        return
    if output.workers is not None:
        raise UsageError("--workers is for threads of this machine; a cluster's are set where it is started")
    from fracgen.cluster import connect

    with connect(output.scheduler) as executor:
        yield executor, output.scheduler


@contextlib.contextmanager
def interruptible(out: Path | None) -> Iterator[list[Path]]:
    """Say in one line what an interrupt or a full disk leaves behind.

    out: the folder that is written; where it is not known yet, it is appended to the list that is yielded.
    """
    folders = [out] if out else []
    try:
        yield folders
    except KeyboardInterrupt:
        _interrupted(folders)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        place = error.filename or (folders[-1] if folders else "here")
        raise DataError(
            f"{place}: {error.strerror or error}; finished shards are kept, run the same command to go on"
        ) from error


def _interrupted(folders: list[Path]) -> NoReturn:
    is_written = folders and folders[-1].exists()
    kept = f"finished shards are kept in {folders[-1]}" if is_written else "nothing was written"
    raise InterruptError(f"interrupted; {kept}; run the same command to go on") from None
