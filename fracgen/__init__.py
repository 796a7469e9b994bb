"""Formulas into pixels: synthetic pre-training data, exact, fast and reproducible.

import fracgen

recipe, provenance = fracgen.OnePFrac(sigma=3.5, delta=0.1).resolve()
for sample in recipe.render([0, 1, 2]):
    sample.image, sample.label, sample.metadata
fracgen.write_shards(recipe, "out", provenance=provenance)
for sample in fracgen.open_shards("out"):
    ...
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fracgen.categories import load_categories as load_categories
    from fracgen.draw import Style as Style
    from fracgen.draw import draw_ifs as draw_ifs
    from fracgen.fractaldb import OFDB as OFDB
    from fracgen.fractaldb import FractalDB as FractalDB
    from fracgen.generate import merge as merge
    from fracgen.generate import plan as plan
    from fracgen.generate import write_shards as write_shards
    from fracgen.ifs import IFS as IFS
    from fracgen.ifs import load_ifs as load_ifs
    from fracgen.noise import Noise as Noise
    from fracgen.onepfrac import OnePFrac as OnePFrac
    from fracgen.photo import Photo as Photo
    from fracgen.photographs import Photographs as Photographs
    from fracgen.photographs import load_photographs as load_photographs
    from fracgen.recipes import load_recipe as load_recipe
    from fracgen.recipes import save_recipe as save_recipe
    from fracgen.search import find_categories as find_categories
    from fracgen.visualatom import VisualAtom as VisualAtom
    from shards.layout import Part as Part
    from shards.reader import open_shards as open_shards

_HOMES = {
    "FractalDB": "fracgen.fractaldb",
    "IFS": "fracgen.ifs",
    "Noise": "fracgen.noise",
    "OFDB": "fracgen.fractaldb",
    "OnePFrac": "fracgen.onepfrac",
    "Part": "shards.layout",
    "Photo": "fracgen.photo",
    "Photographs": "fracgen.photographs",
    "Style": "fracgen.draw",
    "VisualAtom": "fracgen.visualatom",
    "draw_ifs": "fracgen.draw",
    "find_categories": "fracgen.search",
    "load_categories": "fracgen.categories",
    "load_ifs": "fracgen.ifs",
    "load_photographs": "fracgen.photographs",
    "load_recipe": "fracgen.recipes",
    "merge": "fracgen.generate",
    "open_shards": "shards.reader",
    "plan": "fracgen.generate",
    "save_recipe": "fracgen.recipes",
    "write_shards": "fracgen.generate",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `fracgen --help` needs no numba."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fracgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
