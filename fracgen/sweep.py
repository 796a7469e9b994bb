"""Sweeps: one image for each combination of the values of one field of a recipe, or two.

Of 1p-frac all are of one base fractal. Bases of another sigma are drawn from the same numbers, so that a map's singular
values move and nothing else does.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fracgen.ifs import IFS
from fracgen.onepfrac import OnePFrac
from fracgen.preview import TILE, contact_sheet
from fracgen.recipe import Column, Recipe
from fracgen.registry import RECIPES
from fracgen.rng import generator
from fracgen.shards.errors import FracgenError, UsageError, one_line
from fracgen.shards.fields import can_be_written, schema_of
from fracgen.shards.sample import Image
from fracgen.shards.settings import check_value, from_plain, nearest

MAX_VALUES, MAX_IMAGES = 12, 64
"""Of one field, and of all combinations."""
FIXED = ("size", "color", "look", "bases")
"""Fields that change the shape of an image, or of which base it is: all images of a sheet have one."""


@dataclass(frozen=True)
class Cell:
    """One image of a sweep.

    recipe: of which it is. values: by field. error: why the image is not one of the recipe's data set, "" where it is.
    """

    recipe: Recipe
    values: Mapping[str, Any]
    image: Image
    error: str

    @property
    def caption(self) -> str:
        """The values in words."""
        return ", ".join(_words(self.values)) + (" (rejected)" if self.error else "")


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]


def check_sweep(recipe: Recipe, sweep: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values by field, converted. Raises UsageError for what is no field of the recipe, or too many values."""
    schema = schema_of(type(recipe))
    named = [name for name, field in schema.items() if field.option and can_be_written(field.type)]
    known = [name for name in named if name not in FIXED]
    if not 1 <= len(sweep) <= 2:
        raise UsageError(f"a sweep of {len(sweep)} fields: give one or two")
    checked = {}
    for name, values in sweep.items():
        if name not in known:
            raise UsageError(f"sweep {name}: no field to sweep{nearest(name, known)}; there are {', '.join(known)}")
        values = values if isinstance(values, list | tuple) else [values]
        if not 1 <= len(values) <= MAX_VALUES:
            raise UsageError(f"sweep {name}: {len(values)} values; give 1 to {MAX_VALUES}")
        checked[name] = [check_value(schema[name], value, name) for value in values]
    if (count := math.prod(map(len, checked.values()))) > MAX_IMAGES:
        raise UsageError(f"a sweep of {count} images: at most {MAX_IMAGES}; give fewer values")
    return checked


def sweep_cells(
    recipe: Recipe, sweep: Mapping[str, Sequence[Any]], *, index: int = 0, base: int | None = None
) -> Iterator[Cell]:
    """The images of a resolved recipe's sample `index`, the first field's values from row to row.

    base: number of the image's base fractal, where it is a candidate of the recipe's seed; of others sigma cannot be
    swept.
    Raises UsageError for values that no recipe can have, and where sigma cannot be swept.
    """
    sweep = check_sweep(recipe, sweep)
    recipe.check_index(index)
    for combination in itertools.product(*sweep.values()):
        values = dict(zip(sweep, combination, strict=True))
        if isinstance(recipe, OnePFrac):
            changed: Recipe = _changed_fractal(recipe, values, index, base)
        else:
            changed = _changed(recipe, values)
        yield _draw(changed, values, min(index, len(changed) - 1))


def _changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    own = {field.name: getattr(recipe, field.name) for field in fields(recipe)}  # type: ignore[arg-type]
    kind = type(recipe)
    changed: Recipe = from_plain(RECIPES[recipe.NAME], {**kind.rebased(own, values), **values})
    return changed  # what resolving it adds, categories but for which it has them, changes no image


def _changed_fractal(recipe: OnePFrac, values: Mapping[str, Any], index: int, base: int | None) -> OnePFrac:
    if not {"sigma", "maps", "seed"} & set(values):
        return replace(recipe, **values)
    searched = replace(recipe, ifs=None)
    if base is None or not _are_close(searched.candidate(base), recipe.base_of(index)):
        raise UsageError("sigma, maps and seed cannot be swept of a base fractal that was given; sweep delta")
    searched = replace(searched, **values)
    # several bases: all are that of the image, whose number says in which masks and by how much it is perturbed
    return searched.with_bases(*[searched.candidate(base)] * recipe.bases)


def base_number(recipe: Recipe, index: int, provenance: Mapping[str, Any]) -> int | None:
    """The number of an image's base fractal among those of its seed, as a search left it; None where it left none."""
    if "bases" not in provenance:
        return provenance.get("base")
    number: int = provenance["bases"][index // (len(recipe) // len(provenance["bases"]))]
    return number


def _are_close(one: IFS, other: IFS) -> bool:
    """Whether two systems are one but for the last bits of a sigma that was read back from the maps."""
    return one.maps.shape == other.maps.shape and bool(np.allclose(one.maps, other.maps, rtol=1e-6, atol=1e-9))


def _draw(recipe: Recipe, values: Mapping[str, Any], index: int) -> Cell:
    try:
        (sample,) = recipe.render([index])
        return Cell(recipe, values, sample.image, "")
    except FracgenError as error:
        image = _draw_rejected(recipe, index) if isinstance(recipe, OnePFrac) else None
        if image is None:
            image = np.zeros(recipe.image_shape, np.uint8)
        return Cell(recipe, values, image, one_line(str(error)))


def _draw_rejected(recipe: OnePFrac, index: int) -> Image | None:
    """The first perturbation of a class of which none is kept; None where nothing is left of its orbit."""
    from fracgen.renderer import borrow_renderer

    with borrow_renderer(recipe.style) as renderer:
        base = recipe.base_of(index)
        eps = recipe.draw_eps(generator(recipe.seed, index, "eps"), base)
        renderer.trace(base.p, recipe.perturb(eps, base))
        return renderer.draw(mask_key=recipe.mask_key(index)) if renderer.length() else None


def sweep_sheet(
    recipe: Recipe,
    sweep: Mapping[str, Sequence[Any]],
    *,
    index: int = 0,
    base: int | None = None,
    tile: int = TILE,
) -> bytes:
    """PNG bytes of a sheet: a row for each value of the first field, a column for each of the second.

    Raises as `sweep_cells`.
    """
    cells = list(sweep_cells(recipe, sweep, index=index, base=base))
    num_rows = len(check_sweep(recipe, sweep)[next(iter(sweep))]) if len(sweep) == 2 else 1
    num_columns = len(cells) // num_rows
    columns: list[Column] = [
        [(cell.caption, cell.image) for cell in cells[column::num_columns]] for column in range(num_columns)
    ]
    fixed = {name: getattr(recipe, name) for name in recipe.HEADING if name not in sweep}
    return contact_sheet(columns, tile, heading=", ".join([recipe.NAME, *_words(fixed), f"image {index}"]))
