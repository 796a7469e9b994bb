"""`fracgen score`: a set judged before it is trained on."""

import importlib
import json
import math
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fracgen.cli.explore import training_augmenter
from fracgen.cli.output import Output, output_options, resolve_recipe
from fracgen.cli.tools import cached
from fracgen.score import Neighbourhood, Score, ScoreSettings
from fracgen.score_sample import Comparison, ImageSource
from fracgen.shards.cache import CacheSettings
from fracgen.shards.commandline import options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import load_settings, parse_yaml, read_text
from fracgen.shards.urls import is_url

if TYPE_CHECKING:
    from fracgen.onepfrac import OnePFrac

_RECIPES = (".yaml", ".yml", ".csv", ".json")
_ROWS = {
    "fill_rate": ("fill rate, %", 100),
    "dimension": ("box-counting dimension", 1),
    "lacunarity": ("lacunarity", 1),
    "bytes_per_pixel": ("bits a pixel as PNG", 8),
    "nearest_correlation": ("correlation, most alike", 1),
}
"""Measures of each image as the table shows them: in words, and times what."""


@cached
@options_from(ScoreSettings, into="settings", build=True)
@output_options("as_json", "workers")
def score(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of shards, or its URL; a YAML recipe, or a base fractal (CSV or JSON); class folders, tars.",
        ),
    ],
    output: Output,
    settings: ScoreSettings,
    cache: CacheSettings,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="<path>",
            help="YAML of `fracgen pretrain` or `mae`, whose augmentation the views get.",
            show_default="the published one, at 224 pixels",
            rich_help_panel="Views",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels at which images are compared.",
            min=4,
            max=1024,
            show_default="that of the augmentation",
            rich_help_panel="Views",
        ),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(help="Number of classes, of tars without a manifest.", min=1, rich_help_panel="Sample"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="<path>", help="PNG of the distributions to write.", rich_help_panel="Output"),
    ] = None,
) -> None:
    """Judge a set before training on it: dimension, lacunarity, fill, duplicates, how well classes are told apart."""
    from fracgen.cli import report
    from fracgen.cli.progress import status
    from fracgen.score import score as judge

    if plot is not None:
        report.check_png(plot)
        if find_spec("matplotlib") is None:
            raise UsageError("--plot: needs matplotlib, which is not installed: pip install 'fracgen[train]'")
    images, recipe = _open(source, output, cache, num_classes)
    comparison, note = comparison_of(config, size)
    with status(f"looking at {source}"):
        result = judge(images, settings, comparison, recipe=recipe, workers=output.workers)
    if plot is not None:
        from fracgen.score_figure import draw_score

        report.write_png(plot, draw_score(result))
    if note:
        report.warn(note)
    if output.as_json:
        print(json.dumps(_plain({**summary(result), "size": comparison.size}), indent=1))
    else:
        print_score(result, comparison.size)


def _open(
    source: str, output: Output, cache: CacheSettings, num_classes: int | None
) -> "tuple[ImageSource, OnePFrac | None]":
    """The images at a place, and 1p-frac's resolved recipe where they are its, of one base."""
    from fracgen.registry import from_dict, load_source
    from fracgen.shards.manifest import MANIFEST, PARTIAL
    from fracgen.shards.reader import open_shards

    path = Path(source)
    if path.suffix.lower() in _RECIPES and not is_url(source) and path.name != MANIFEST:
        recipe, _ = resolve_recipe(load_source(path), output)
        return ImageSource.of(recipe), _of_onepfrac(recipe)
    if (is_url(source) and "{" not in source) or (path / MANIFEST).exists() or (path / PARTIAL).exists():
        shards = open_shards(source, cache=cache)
        small = shards.files.small_files()
        is_packed = shards.manifest.image.original
        return ImageSource.of(shards), None if is_packed else _of_onepfrac(from_dict(shards.manifest.recipe, small))
    try:
        opening = importlib.import_module("fracgen.train.data.opening")
        examples = opening.open_examples(source, num_classes=num_classes or 0, cache=cache)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fracgen"):
            raise
        raise UsageError(f"{source}: no shards of fracgen; to read others: pip install 'fracgen[train]'") from None
    return ImageSource(examples.labels, lambda numbers: (np.asarray(examples.open(n)) for n in numbers)), None


def _of_onepfrac(recipe: Any) -> "OnePFrac | None":
    return recipe if recipe.NAME == "1p-frac" and recipe.bases == 1 else None


def comparison_of(config: Path | None, size: int | None) -> tuple[Comparison, str]:
    """(how images are compared, what is to be said of it): through training's views where torch is installed."""
    path = None if config is None else str(config)
    values: Any = {} if path is None else parse_yaml(read_text(path), path)
    is_masked = isinstance(values, dict) and not {"mask", "decoder"}.isdisjoint(values)
    program = importlib.import_module(f"fracgen.train.{'mae' if is_masked else 'pretrain'}")
    kind = program.MaskedPretraining if is_masked else program.Pretraining
    augment = load_settings(kind, path, {} if size is None else {"augment.size": size}).augment
    if (augmenter := training_augmenter()) is None:
        why = "torch and timm are not installed, so images are compared without augmentation"
        return Comparison(augment.size), f"{why}: pip install 'fracgen[train]'"
    mix = importlib.import_module("fracgen.train.augment.settings").Mix(prob=0.0)
    return Comparison(
        augment.size, lambda images, seed, n: augmenter.views(images, augment, mix, seed=seed, draws=n)
    ), ""


def summary(result: Score) -> dict[str, Any]:
    """What `--json` prints: distributions of the measures, duplicates, how well classes are told apart."""
    return {
        "images": len(result.images),
        "classes": len(set(result.labels.tolist())),
        "augmented": result.augmented,
        "blank": result.blank,
        "exact_duplicates": result.exact_duplicates,
        "mislabelled": result.mislabelled,
        "near_duplicates": result.near_duplicates,
        "measures": {name: _distribution(values) for name, values in result.measures().items()},
        "separability": _told_apart(result),
        "neighbourhood": [asdict(each) for each in result.neighbourhood],
    }


def _told_apart(result: Score) -> dict[str, Any] | None:
    """What is known of how well classes are told apart: without augmentation, among other images alone."""
    if result.separability is None:
        return None
    values = asdict(result.separability)
    of_views = () if result.augmented else ("accuracy", "error", "chance", "auc")
    return {name: value for name, value in values.items() if name not in of_views}


def _distribution(values: Any) -> dict[str, float | int]:
    """Of the numbers that are none of NaN: how many, mean, standard deviation, least, median, greatest."""
    values = values[~np.isnan(values)]
    if not len(values):
        return {"images": 0}
    ends = {"least": float(values.min()), "median": float(np.median(values)), "greatest": float(values.max())}
    return {"images": len(values), "mean": float(values.mean()), "std": float(values.std()), **ends}


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_score(result: Score, size: int) -> None:
    """Print what the command prints without `--json`. size: at which images were compared, in pixels."""
    from rich.console import Console
    from rich.table import Table

    console, number = Console(), len(result.images)
    table = Table("", *("mean", "std", "least", "median", "greatest"), title_justify="left", caption_justify="left")
    table.title = f"{number} images of {len(set(result.labels.tolist()))} classes"
    for name, values in result.measures().items():
        label, factor = _ROWS[name]
        shown = _distribution(values)
        cells = [shown.get(column) for column in ("mean", "std", "least", "median", "greatest")]
        table.add_row(label, *("" if cell is None else f"{factor * cell:.3f}" for cell in cells))
    table.caption = (
        f"blank {result.blank}; duplicates {result.exact_duplicates} exact, of another class {result.mislabelled}; "
        f"near {result.near_duplicates}"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    print(_in_words(result, size))
    if result.neighbourhood:
        console.print(_neighbourhood_table(result.neighbourhood))
        for each in result.neighbourhood:
            if each.error:
                print(f"Delta {each.delta:g}: {each.error}")


def _in_words(result: Score, size: int) -> str:
    """How well classes are told apart, in a line."""
    if (classes := result.separability) is None:
        is_one = len(set(result.labels.tolist())) == 1
        if is_one:
            return "one class: nothing to tell apart"
        return "told apart: not known, as each class has one image, which without augmentation finds itself"
    across = classes.across_images
    if not result.augmented:  # each image would find itself
        assert across is not None, "some class has several images"
        return f"told apart, without augmentation: {100 * across:.1f} % of images are nearest to another of their class"
    line = f"told apart: {100 * classes.accuracy:.1f} % ± {100 * classes.error:.1f} of augmented views at {size} px "
    line += f"have their nearest neighbour in their class (chance {100 * classes.chance:.1f} %)"
    if across is not None:
        line += f", {100 * across:.1f} % among views of other images"
    return f"{line}; AUC {classes.auc:.3f}"


def _neighbourhood_table(neighbourhood: tuple[Neighbourhood, ...]) -> Any:
    from rich.table import Table

    kinds = [kind for kind in ("views", "shapes") if any(getattr(each, kind) for each in neighbourhood)]
    chances = {told.chance for each in neighbourhood for told in (each.views, each.shapes) if told}
    chance = "".join(f" (chance {100 * chance:.1f} %)" for chance in chances)
    names = ("Delta", *(name for kind in kinds for name in (f"{kind}, %", "AUC")), "fill rate, %", "kept, %")
    table = Table(*names, title=f"perturbations of the base, told apart{chance}", title_justify="left")
    for each in neighbourhood:
        if each.fill_rate is None or each.acceptance is None:
            table.add_row(f"{each.delta:g}")  # a line below the table says why
            continue
        cells = list[str]()
        for told in (getattr(each, kind) for kind in kinds):
            cells += [f"{100 * told.accuracy:.1f} ± {100 * told.error:.1f}", f"{told.auc:.3f}"] if told else [""] * 2
        table.add_row(f"{each.delta:g}", *cells, f"{100 * each.fill_rate:.1f}", f"{100 * each.acceptance:.1f}")
    for column in table.columns:
        column.justify = "right"
    return table
