"""What the page shows of a recipe beside its images: resolved values, hash, command, badges, axes of its index."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fracgen.assets import Stored
from fracgen.base_fractals import Bases
from fracgen.exfractaldb import ExFractalDB
from fracgen.explore.bases import (
    MAX_SECONDS,
    Base,
    bounded,
    draft_base,
    find_base,
    find_several,
    step_base,
    take_base,
    take_several,
)
from fracgen.explore.building import RecipeBuilder, has_categories, page_values
from fracgen.explore.inputs import Inputs
from fracgen.explore.messages import ResolveRequest
from fracgen.explore.shell_command import base_csv, render_command
from fracgen.explore.turns import DroppedError, Ticket
from fracgen.fractaldb import FLIPS, OFDB, CategoryRecipe, FractalDB, weight_vectors
from fracgen.onepfrac import OnePFrac
from fracgen.perturbed import Perturbed
from fracgen.recipe import Recipe
from fracgen.registry import default_folder, recipe_hash, to_dict
from fracgen.shards.errors import DataError, FracgenError, UsageError, one_line
from fracgen.shards.settings import to_yaml
from fracgen.spatial import SpatialCategories, SpatialIFS


class Resolution:
    """A recipe that is resolved, or as far as it can be.

    recipe: to draw. bases: its base fractals, where those are not to be searched. reason: why it cannot be rendered, or
    "". base: of 1p-frac. draft: none of the perturbations of its bases was tried, so that it is not rendered. search:
    (categories found, wanted) while some are still searched.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        provenance: Mapping[str, Any],
        bases: Bases | None = None,
        reason: str = "",
        base: Base | None = None,
        draft: bool = False,
        search: tuple[int, int] | None = None,
    ) -> None:
        self.recipe, self.provenance, self.bases = recipe, provenance, bases
        self.reason, self.base, self.draft, self.search = reason, base, draft, search

    @property
    def is_complete(self) -> bool:
        """Whether it can be rendered as it is."""
        return not self.reason and self.search is None and not self.draft


def resolve(request: ResolveRequest, builder: RecipeBuilder, ticket: Ticket) -> Resolution:
    """The recipe of a request, resolved. Raises UsageError where it is none, DroppedError for an older request."""
    recipe = builder.build(request.recipe)
    if isinstance(recipe, OnePFrac):
        return _resolve_base(recipe, request, ticket)
    if request.step:
        raise UsageError(f"{recipe.NAME} has no base fractal to step from")
    if has_categories(recipe) and recipe.systems is None:
        return _resolve_categories(recipe, builder)
    slow = f"its classes take longer to check than {MAX_SECONDS:g} seconds; the command for them checks them all"
    try:
        resolved, provenance = recipe.resolve(bounded(ticket, slow))
    except DroppedError:
        raise
    except FracgenError as error:
        return Resolution(recipe, provenance={}, reason=one_line(str(error)))
    return Resolution(resolved, provenance=provenance)


def _resolve_base(recipe: OnePFrac, request: ResolveRequest, ticket: Ticket) -> Resolution:
    if recipe.bases > 1:
        if request.step:
            raise UsageError(f"{recipe.bases} bases: none to step from; lower bases to 1")
        if request.draft and recipe.ifs is None:
            resolved, provenance = take_several(recipe, request.bases, ticket)
            return Resolution(resolved, provenance=provenance, draft=True)
        try:
            resolved, provenance = find_several(recipe, ticket)
        except DataError as error:
            shown = recipe if recipe.ifs is not None else take_several(recipe, (), ticket)[0]
            return Resolution(shown, provenance={}, bases=recipe.ifs, reason=one_line(str(error)))
        return Resolution(resolved, provenance=provenance, bases=recipe.ifs)
    if not request.step and recipe.ifs is None and (request.draft or request.base is not None):
        if request.draft or request.base is None:
            base = draft_base(recipe, request.base, ticket)
        else:
            base = take_base(recipe, request.base, ticket)
        bases, draft = base.recipe.ifs, request.draft
        return Resolution(
            base.recipe, provenance=base.provenance, bases=bases, reason=base.reason, base=base, draft=draft
        )
    if not request.step:
        base = find_base(recipe, ticket)
        return Resolution(base.recipe, provenance=base.provenance, bases=recipe.ifs, reason=base.reason, base=base)
    number = request.base
    if number is None:
        number = find_base(recipe, ticket).number if recipe.ifs is None else None
    if number is None:  # of a base that is no candidate of this seed
        number = -1 if request.step > 0 else 0
    base = step_base(recipe, number, request.step, ticket)
    return Resolution(base.recipe, provenance=base.provenance, bases=base.recipe.ifs, reason=base.reason, base=base)


def _resolve_categories(recipe: CategoryRecipe | ExFractalDB | Perturbed, builder: RecipeBuilder) -> Resolution:
    source = builder.source(recipe)
    count = recipe.base + 1 if isinstance(recipe, Perturbed) else recipe.categories
    systems: Any = source.first(count)
    if systems is None:
        return Resolution(recipe, provenance={}, search=(source.num_found, count))
    if isinstance(recipe, Perturbed):
        return _resolve_perturbed(recipe, systems.systems[:count], source.provenance(count))
    provenance: Mapping[str, Any] = {"categories": "given"}
    if source.from_command is None:
        provenance = {"categories": "searched", **source.provenance(recipe.categories)}
    return Resolution(replace(recipe, systems=systems), provenance=provenance)


def _resolve_perturbed(recipe: Perturbed, systems: Sequence[SpatialIFS], provenance: Mapping[str, Any]) -> Resolution:
    recipe = replace(recipe, systems=SpatialCategories(tuple(systems)))
    try:
        return Resolution(recipe.resolve()[0], provenance=provenance)
    except DataError as error:
        return Resolution(recipe, provenance={}, reason=one_line(str(error)))


def describe(resolution: Resolution, request: ResolveRequest, inputs: Inputs) -> dict[str, Any]:
    """All of it, JSON-able. hash, folder and command are None where it cannot be rendered as it is."""
    recipe, complete = resolution.recipe, resolution.is_complete
    values = to_dict(recipe)
    words = inputs.words(recipe)
    return {
        "recipe": values,
        "recipe_given": _values_without_search(resolution, request),
        "provenance": dict(resolution.provenance),
        "hash": recipe_hash(recipe) if complete else None,
        "title": recipe.title,
        "folder": str(default_folder(recipe)) if complete else None,
        "num_samples": len(recipe),
        "num_classes": recipe.num_classes,
        "group": recipe.group,
        "axes": axes(recipe),
        "passes": not resolution.reason,
        "reason": resolution.reason,
        "warnings": recipe.warnings(resolution.provenance) if complete else [],
        "command": render_command(recipe, resolution.bases, words) if complete else None,
        "command_note": words.note,
        "yaml": to_yaml(_without_found(values, resolution, is_given=bool(words.words) or not words.possible)),
        "base_csv": base_csv(resolution.base.recipe.base) if resolution.base else None,
        "base_json": resolution.base.recipe.base.to_plain() if resolution.base else None,
        "base": resolution.base.describe() if resolution.base else None,
        "draft": resolution.draft,
        "search": dict(zip(("found", "wanted"), resolution.search, strict=True)) if resolution.search else None,
    }


def _values_without_search(resolution: Resolution, request: ResolveRequest) -> dict[str, Any]:
    """What the next request begins with: the values without what was searched for them."""
    kept = page_values(resolution.recipe)
    if resolution.bases is None:
        kept.pop("ifs", None)
        if isinstance(sigma := request.recipe.get("sigma"), int | float):
            kept["sigma"] = sigma  # that of a base which was found may differ in its last bit
    return kept


def _without_found(values: Mapping[str, Any], resolution: Resolution, *, is_given: bool) -> dict[str, Any]:
    """The values without the files of bases, categories or states that resolving them finds again: the page saves none.

    is_given: whether a file of the command's source is such.
    """
    if is_given or resolution.bases is not None:
        return dict(values)
    values_of_files = {name: getattr(resolution.recipe, name, None) for name in ("ifs", "systems", "states")}
    stored = {name for name, value in values_of_files.items() if isinstance(value, Stored) and not value.is_inline}
    return {name: value for name, value in values.items() if name not in stored}


def axes(recipe: Recipe) -> list[dict[str, Any]]:
    """What an index is made of, the slowest first: names, sizes, and labels of their values where they have such."""
    if isinstance(recipe, FractalDB):
        vectors = [" ".join(f"{factor:g}" for factor in vector) for vector in weight_vectors(recipe.weights).tolist()]
        return [
            {"name": "category", "size": recipe.categories},
            {"name": "weight", "size": len(vectors), "labels": vectors},
            {"name": "instance", "size": recipe.instances},
            {"name": "flip", "size": len(FLIPS), "labels": list(FLIPS)},
        ]
    if isinstance(recipe, OnePFrac) and recipe.bases > 1:
        return [{"name": "base", "size": recipe.bases}, {"name": "perturbation", "size": recipe.classes}]
    if instances := getattr(recipe, "instances", 0):
        return [{"name": "class", "size": recipe.classes}, {"name": "instance", "size": instances}]
    if isinstance(recipe, ExFractalDB):
        return [
            {"name": "category", "size": recipe.categories},
            {"name": "weight", "size": len(recipe.vectors)},
            {"name": "view", "size": recipe.num_views},
        ]
    if recipe.NAME == "photo":
        photographs = len(recipe) // recipe.classes
        return [{"name": "photograph", "size": photographs}, {"name": "warp", "size": recipe.classes}]
    return [{"name": "category" if isinstance(recipe, OFDB) else "class", "size": len(recipe)}]
