"""Recipes whose classes are categories that a search finds: what FractalDB and ExFractalDB share."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from fracgen.categories import MAX_CATEGORIES, CategorySet
from fracgen.ifs import System
from fracgen.recipe import OnTry, Recipe
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting

if TYPE_CHECKING:
    from fracgen.search_settings import CategorySearch


@dataclass(frozen=True, kw_only=True)
class SearchedRecipe(Recipe):
    """A recipe of categories, each a class.

    CATEGORIES: of what kind. A field `systems` holds them, once resolved; where there are more than `categories`, the
    first of them.
    """

    CATEGORIES: ClassVar[type[CategorySet[Any]]]

    categories: Annotated[
        int, Setting("Number of categories, each a class.", at_least=1, at_most=MAX_CATEGORIES, panel="Formula")
    ] = 1000

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        if (systems := self._systems) is not None:
            if len(systems) < self.categories:
                raise UsageError(f"categories {self.categories}: only {len(systems)} are given; lower it")
            if len(systems) > self.categories:
                object.__setattr__(self, "systems", self.CATEGORIES(systems.systems[: self.categories]))

    @property
    def _systems(self) -> CategorySet[Any] | None:
        systems: CategorySet[Any] | None = getattr(self, "systems")  # noqa: B009  # of a kind that each recipe declares
        return systems

    @property
    def num_classes(self) -> int:
        """Number of categories."""
        return self.categories

    @property
    def class_names(self) -> tuple[str, ...]:
        """Published names: the category's number in as many digits as its file has."""
        return tuple(f"{category:0{self.CATEGORIES.DIGITS}d}" for category in range(self.categories))

    @property
    @abstractmethod
    def search(self) -> "CategorySearch[Any]":
        """The settings of the search for its categories."""

    def resolve(self, on_try: OnTry | None = None) -> tuple[Self, dict[str, Any]]:
        """The recipe with its categories, searched where they are not given, and what the search took."""
        if self._systems is not None:
            return self, {"categories": "given"}
        from fracgen.search import find_for_recipe

        return self.with_systems(*find_for_recipe(self.categories, self.search, on_try))

    def with_systems(self, systems: CategorySet[Any], provenance: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The resolved recipe and its provenance, from the result of `search.find_categories`."""
        changes: dict[str, Any] = {"systems": systems}
        return replace(self, **changes), {"categories": "searched", **provenance}

    def category(self, number: int) -> Any:
        """The system of a category, a `System`. Raises UsageError where the recipe is not resolved."""
        if (systems := self._systems) is None:
            raise UsageError("the recipe has no categories yet: call resolve() first")
        system: System = systems[number]
        return system
