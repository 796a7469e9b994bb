"""Formulas into pixels: synthetic pre-training data, exact, fast and reproducible.

import fracgen

recipe, provenance = fracgen.OnePFrac(sigma=3.5, delta=0.1).resolve()
for sample in recipe.render([0, 1, 2]):
    sample.image, sample.label, sample.metadata
fracgen.write_shards(recipe, "out", provenance=provenance)
for sample in fracgen.open_shards("out"):
    ...
loader = torch.utils.data.DataLoader(fracgen.TorchDataset(recipe, transform), batch_size=64, num_workers=2)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fracgen.categories import load_categories as load_categories
    from fracgen.exfractaldb import ExFractalDB as ExFractalDB
    from fracgen.fractaldb import OFDB as OFDB
    from fracgen.fractaldb import FractalDB as FractalDB
    from fracgen.ifs import IFS as IFS
    from fracgen.ifs import load_ifs as load_ifs
    from fracgen.multifractal import MultiFractal as MultiFractal
    from fracgen.noise import Noise as Noise
    from fracgen.onepfrac import OnePFrac as OnePFrac
    from fracgen.perturbed import Perturbed as Perturbed
    from fracgen.photo.photographs import Photographs as Photographs
    from fracgen.photo.photographs import load_photographs as load_photographs
    from fracgen.photo.recipe import Photo as Photo
    from fracgen.rcdb import RCDB as RCDB
    from fracgen.registry import load_recipe as load_recipe
    from fracgen.registry import save_recipe as save_recipe
    from fracgen.render_shards import merge as merge
    from fracgen.render_shards import plan as plan
    from fracgen.render_shards import write_shards as write_shards
    from fracgen.renderer import draw_ifs as draw_ifs
    from fracgen.search import find_categories as find_categories
    from fracgen.shards.layout import Part as Part
    from fracgen.shards.reader import open_shards as open_shards
    from fracgen.style import Style as Style
    from fracgen.train.data.torch_dataset import TorchDataset as TorchDataset
    from fracgen.visualatom import VisualAtom as VisualAtom

_MODULES = {
    "fracgen.categories": ("load_categories",),
    "fracgen.exfractaldb": ("ExFractalDB",),
    "fracgen.fractaldb": ("FractalDB", "OFDB"),
    "fracgen.ifs": ("IFS", "load_ifs"),
    "fracgen.multifractal": ("MultiFractal",),
    "fracgen.noise": ("Noise",),
    "fracgen.onepfrac": ("OnePFrac",),
    "fracgen.perturbed": ("Perturbed",),
    "fracgen.photo.photographs": ("Photographs", "load_photographs"),
    "fracgen.photo.recipe": ("Photo",),
    "fracgen.rcdb": ("RCDB",),
    "fracgen.registry": ("load_recipe", "save_recipe"),
    "fracgen.render_shards": ("merge", "plan", "write_shards"),
    "fracgen.renderer": ("draw_ifs",),
    "fracgen.search": ("find_categories",),
    "fracgen.shards.layout": ("Part",),
    "fracgen.shards.reader": ("open_shards",),
    "fracgen.style": ("Style",),
    "fracgen.train.data.torch_dataset": ("TorchDataset",),
    "fracgen.visualatom": ("VisualAtom",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES.keys() - {"TorchDataset"})  # `from fracgen import *` needs no torch


def __getattr__(name: str) -> Any:
    """Import a public name, `shards` or `train` when it is used: `fracgen --help` needs no numba."""
    if name in ("shards", "train"):
        return importlib.import_module(f"fracgen.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'fracgen' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(f"fracgen.{name} needs torch: pip install 'fracgen[train]'", name="torch") from None


def __dir__() -> list[str]:
    """The public names, whether imported yet or not."""
    return sorted({*globals(), *_HOMES, "shards", "train"} - {"Any", "TYPE_CHECKING", "importlib"})
