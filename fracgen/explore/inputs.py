"""What comes with the command: the recipe to begin with, its photographs and categories; a photograph of our own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.categories import Categories
from fracgen.exfractaldb import ExFractalDB
from fracgen.explore.category_search import AnyCategories
from fracgen.explore.folder_view import FolderView
from fracgen.explore.limits import check_limits
from fracgen.explore.shell_command import InputWords
from fracgen.onepfrac import OnePFrac
from fracgen.perturbed import Perturbed
from fracgen.recipe import Recipe
from fracgen.registry import load_source
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.manifest import MANIFEST, PACK
from fracgen.shards.png import encode_png
from fracgen.shards.sample import Image
from fracgen.spatial import SpatialCategories

PHOTOGRAPH = "photograph.png"
_SIDE, _BALLS = 640, 90


@dataclass(frozen=True)
class Inputs:
    """What the page begins with.

    recipe: unresolved, or that of a folder. source: the command's argument. categories: given ones, from `source`.
    photographs: a `Photographs`, given or generated; None without OpenCV. photograph_words: of a command that has them.
    folder: to look through. note: what the user should know.
    """

    recipe: Recipe
    source: Path | None = None
    categories: AnyCategories | None = None
    photographs: Any = None
    photograph_words: InputWords = field(default_factory=InputWords)
    folder: FolderView | None = None
    note: str = ""

    @property
    def base(self) -> int | None:
        """The number of the base fractal in the folder's recipe; None where that is not known."""
        return self.folder.shards.manifest.provenance.get("base") if self.folder is not None else None

    def words(self, recipe: Recipe) -> InputWords:
        """The words of a command that give a recipe its photographs or categories."""
        if recipe.NAME == "photo":
            return self.photograph_words
        if isinstance(recipe, OnePFrac):
            own = self.recipe.ifs if isinstance(self.recipe, OnePFrac) else None
            if own is None or own.is_inline or recipe.ifs != own:  # others are searched
                return InputWords()
            return InputWords(("--recipe", str(self.source)), defaults=self.recipe)
        kind = SpatialCategories if isinstance(recipe, ExFractalDB) else Categories
        if not hasattr(recipe, "search") or not isinstance(self.categories, kind):
            return InputWords()
        if recipe.NAME == self.recipe.NAME:
            return InputWords(("--recipe", str(self.source)), defaults=self.recipe)
        if self.folder is not None:
            return InputWords(("--categories-from", str(self.source)), always=("categories",))
        return InputWords(note=f"the categories are those of {self.source}, a recipe of another name", possible=False)

    def read_file(self, name: str) -> bytes:
        """A file that recipes need beside them. Raises UsageError for any other name."""
        if name == PHOTOGRAPH and self.photographs is not None:
            return encode_png(self.photographs.images[0])
        for stored in (self.categories, self.photographs):
            if stored is not None and name == stored.FILE:
                data: bytes = stored.to_bytes()
                return data
        raise UsageError(f"{name}: no input of this recipe")


def read_source(source: Path | None, photographs: list[Path]) -> Inputs:
    """What the command's argument holds: a YAML recipe, a base fractal as CSV or JSON, a folder of shards.

    photographs: files, instead of a generated one. Raises UsageError or DataError where something cannot be read.
    """
    folder: FolderView | None = None
    note = ""
    if source is not None and source.is_dir() and (source / MANIFEST).exists():
        folder = FolderView(source)
    if folder is not None and folder.shards.manifest.recipe.get("recipe") == PACK:
        recipe = load_source(None)
        note = f"{source}: was packed from images, so it can be looked at, and has no recipe to change"
    else:
        recipe = load_source(source)
        if source is not None and source.is_dir() and folder is None:
            note = f"{source}: is not finished, so its images cannot be looked at yet; this is its recipe"
        try:
            check_limits(recipe)
        except UsageError as error:
            if folder is None:
                raise
            recipe, note = load_source(None), f"{source}: {error}; its images can be looked at"
    categories = None if isinstance(recipe, Perturbed) else getattr(recipe, "systems", None)
    own = getattr(recipe, "photographs", None)
    if own is not None and not photographs:
        words = InputWords(("--recipe", str(source)), defaults=recipe)
    else:
        own, words = _photographs(photographs)
    return Inputs(recipe, source, categories, own, words, folder, note)


def _photographs(paths: list[Path]) -> tuple[Any, InputWords]:
    """The photographs in these files, or a generated one; None where OpenCV is not installed and none are given."""
    from importlib.util import find_spec

    if find_spec("cv2") is None:
        if paths:
            raise UsageError("photographs need OpenCV, which is not installed: pip install 'fracgen[photo]'")
        return None, InputWords()
    from fracgen.photo.photographs import Photographs, load_photographs

    if paths:
        return load_photographs(paths)[0], InputWords(tuple(map(str, paths)))
    note = f"save the generated photograph as {PHOTOGRAPH} first, or name one of your own in its place"
    return Photographs((generated_photograph(),)), InputWords((PHOTOGRAPH,), note)


def generated_photograph() -> Image:
    """A picture of balls that hide each other, lit from one side: uint8 (640, 640, 3).

    It stands for a photograph where none is given; its edges are of all lengths and in all directions.
    """
    random = generator(2026, 0, "image").random
    picture = np.empty((_SIDE, _SIDE, 3))
    picture[:] = (70, 80, 60)
    for _ in range(_BALLS):
        y, x = _SIDE * random(2)
        radius = 12 / (0.08 + 0.92 * random()) ** 0.8  # few are large
        color = 40 + 200 * random(3)
        top, left = max(int(y - radius), 0), max(int(x - radius), 0)
        part = picture[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.indices(part.shape[:2])
        across, down = (columns + left - x) / radius, (rows + top - y) / radius
        inside = across**2 + down**2 < 1
        light = 0.75 - 0.35 * across[inside] - 0.25 * down[inside]
        part[inside] = color * light[:, None]
    return np.clip(picture, 0, 255).astype(np.uint8)
