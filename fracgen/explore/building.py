"""Recipes from the values that the page sends: within the page's limits, with the inputs that the server has.

A request never names a file. Photographs and categories come with the command, and recipes of requests have those.
"""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from fracgen.assets import Stored
from fracgen.categories import Categories
from fracgen.exfractaldb import ExFractalDB
from fracgen.explore.category_search import AnyCategories, CategorySource
from fracgen.explore.limits import check_limits
from fracgen.fractaldb import CategoryRecipe
from fracgen.ifs import IFS
from fracgen.onepfrac import OnePFrac
from fracgen.perturbed import Perturbed
from fracgen.recipe import Recipe
from fracgen.registry import from_dict, to_dict
from fracgen.search_settings import CategorySearch, SpatialSearch
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import convert
from fracgen.spatial import SpatialCategories

_KEPT, _KEPT_INPUTS, _MAX_SEARCHES = 8, 4, 3
"""Recipes that stay built: one of photographs holds their edges."""
INPUTS = ("systems", "photographs", "states")
"""Fields that lie in files of their own."""


class RecipeBuilder:
    """Builds recipes from plain values, and keeps the last ones."""

    def __init__(self, categories: AnyCategories | None, photographs: Any) -> None:
        """categories: the command's. photographs: a `Photographs`, or None where the photo extra is not installed."""
        self._categories, self._photographs = categories, photographs
        self._sources = OrderedDict[tuple[CategorySearch[Any], bool], CategorySource]()
        self._kept = OrderedDict[str, Recipe]()
        self._stored = OrderedDict[str, Stored]()
        self._lock = threading.Lock()

    def build(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of these values, with the server's photographs; categories come when it is drawn.

        Raises UsageError where it is none, or costs more than the page draws.
        """
        key = json.dumps(values, sort_keys=True, default=str)
        with self._lock:
            if (recipe := self._kept.pop(key, None)) is not None:
                self._kept[key] = recipe
                return recipe
        recipe = self._build(values)
        with self._lock:
            self._kept[key] = recipe
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return recipe

    def _build(self, values: Mapping[str, Any]) -> Recipe:
        plain = {str(key).replace("-", "_"): value for key, value in values.items()}
        plain = {key: self._stored.get(_sha256(value)) if key in INPUTS else value for key, value in plain.items()}
        if _sha256(plain.get("ifs")):
            if (bases := self._stored.get(_sha256(plain["ifs"]))) is None:
                raise UsageError("these base fractals are not here any more; reload the page")
            plain = {**{key: plain[key] for key in plain if key not in ("sigma", "maps", "bases")}, "ifs": bases}
        elif plain.get("ifs") is not None:
            plain = fit_to_base(plain)
        if plain.get("recipe") == "photo":
            if self._photographs is None:
                raise UsageError("photographs need OpenCV, which is not installed: pip install 'fracgen[photo]'")
            plain["photographs"] = self._photographs
        recipe = from_dict(plain)
        check_limits(recipe)
        return recipe

    def keep(self, recipe: Recipe) -> None:
        """Keep a resolved recipe, and its inputs by their hashes, by which requests name them."""
        with self._lock:
            self._kept[json.dumps(to_dict(recipe), sort_keys=True, default=str)] = recipe
            for name in (*INPUTS, "ifs"):
                if isinstance(stored := getattr(recipe, name, None), Stored) and not stored.is_inline:
                    self._stored[stored.sha256] = stored
            while len(self._stored) > _KEPT_INPUTS:
                self._stored.popitem(last=False)

    def source(self, recipe: CategoryRecipe | ExFractalDB | Perturbed) -> CategorySource:
        """Where the categories of a recipe come from. Of more than three searches the one used least lately ends."""
        kind = Categories if isinstance(recipe, CategoryRecipe) else SpatialCategories
        with self._lock:
            is_usable = isinstance(self._categories, kind) and not isinstance(recipe, Perturbed)
            categories = self._categories if is_usable else None
            search = SpatialSearch() if isinstance(recipe, Perturbed) else recipe.search
            key = (search, categories is not None)
            source = self._sources.pop(key, None) or CategorySource(search, categories)
            self._sources[key] = source
            oldest = self._sources.popitem(last=False)[1] if len(self._sources) > _MAX_SEARCHES else None
        if oldest is not None:
            oldest.stop()
        return source

    def stop(self) -> None:
        """End all searches."""
        with self._lock:
            sources = list(self._sources.values())
        for source in sources:
            source.stop()

    def drawable(self, recipe: Recipe, category: int = 0) -> Recipe:
        """The recipe with the categories up to this one, which is enough to draw it.

        An image does not depend on how many categories there are; a perturbed one has those up to its own.
        Raises UsageError where that category is not found yet.
        """
        if not has_categories(recipe) or recipe.systems is not None:
            return recipe
        source = self.source(recipe)
        if isinstance(recipe, Perturbed):
            category = recipe.base
        systems: Any = source.wait(category + 1, 2)
        if systems is None or len(systems) <= category:
            num_found = source.num_found
            raise UsageError(f"category {category}: {num_found} are found so far, the others are being searched")
        if isinstance(recipe, Perturbed):
            return replace(recipe, systems=SpatialCategories(systems.systems[: category + 1]))
        return replace(recipe, categories=min(len(systems), recipe.categories), systems=systems)


def has_categories(recipe: Recipe) -> TypeGuard[CategoryRecipe | ExFractalDB | Perturbed]:
    """Whether a recipe draws categories that are searched where they are not given."""
    if isinstance(recipe, Perturbed):
        return recipe.formula == "exfractaldb"
    return isinstance(recipe, CategoryRecipe | ExFractalDB)


def _sha256(value: Any) -> str:
    """Of an input that the page names."""
    return str(value.get("sha256", "")) if isinstance(value, Mapping) else ""


def page_values(recipe: Recipe) -> dict[str, Any]:
    """The values that the page has of a recipe: without inputs, which it cannot change, and what was derived."""
    values = to_dict(recipe)
    left_out = {*INPUTS, "derived", *values.get("derived", ())}
    return {name: value for name, value in values.items() if name not in left_out}


def fit_to_base(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with an `ifs`, without sigma and maps where those are not its own."""
    base: IFS = convert(IFS, values["ifs"], "ifs")
    plain = {**values, "ifs": base, "maps": len(base)}
    sigma = plain.get("sigma", OnePFrac.sigma)
    if not (isinstance(sigma, int | float) and math.isclose(sigma, base.sigma, rel_tol=1e-9)):
        plain["sigma"] = base.sigma
    return plain
