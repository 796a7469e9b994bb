"""The recipes by name; a recipe to and from plain values, YAML and its hash."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from fracgen.assets import Stored
from fracgen.formulas import FORMULAS
from fracgen.recipe import Recipe as Recipe
from fracgen.shards.data_card import CardText
from fracgen.shards.errors import UsageError
from fracgen.shards.files import write_atomically
from fracgen.shards.manifest import FORMAT, MANIFEST, PACK, hash_json, load_manifest, read_manifest
from fracgen.shards.plan import read_input, read_plan
from fracgen.shards.settings import from_plain, nearest, parse_yaml, read_text, to_plain, to_yaml

T = TypeVar("T")
DEFAULT = "1p-frac"


class _Lazy(Mapping[str, T], Generic[T]):
    """Classes by name, each imported when it is looked up."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """places: "module:class" by name."""
        self._places = places

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self._places[name].partition(":")
        kind: T = getattr(importlib.import_module(module), attribute)
        return kind

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


RECIPES: Mapping[str, type[Recipe]] = _Lazy({name: formula.recipe for name, formula in FORMULAS.items()})
STORED: Mapping[str, type[Stored]] = _Lazy(
    {
        "bases.csv": "fracgen.base_fractals:Bases",
        "categories.csv": "fracgen.categories:Categories",
        "photographs.zip": "fracgen.photo.photographs:Photographs",
        "spatial-categories.csv": "fracgen.spatial:SpatialCategories",
        "random-states.bin": "fracgen.rcdb_stream:RandomStates",
    }
)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """All fields and the recipe's name, JSON-able; what was neither set nor resolved is left out, and LATER's defaults.

    What lies in a file of its own (`inputs`) is named by that file and its sha256.
    """
    later = {name: getattr(type(recipe), name) for name in recipe.LATER}
    values = {
        name: value
        for name, value in to_plain(recipe).items()
        if value is not None and not (name in later and value == later[name])
    }
    return {"recipe": recipe.NAME, **values}


def from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Recipe:
    """The inverse of `to_dict`; fields may be spelt with dashes. folder: where the files lie that the values name.

    Raises UsageError for an unknown name or key (it names the nearest), a wrong type, a value that is not allowed,
    and where a file is missing or is another.
    """
    values = {key: _read_input(value, folder) for key, value in values.items()}
    name = values.pop("recipe", DEFAULT)
    if name == PACK:
        raise UsageError("its images were packed from files, so there is no recipe to render")
    if name not in RECIPES:
        hint = nearest(str(name), RECIPES)
        raise UsageError(f"recipe {reprlib.repr(name)}: unknown{hint}; there are {', '.join(RECIPES)}")
    return from_plain(RECIPES[name], values)


def inputs(recipe: Recipe) -> dict[str, bytes]:
    """The files that a resolved recipe needs beside its values, by name."""
    return {value.FILE: value.to_bytes() for value in _stored(recipe)}


def card_text(recipe: Recipe) -> CardText:
    """What the data card says of a resolved recipe, beside the manifest."""
    carried = {value.FILE: value.CONTENT for value in _stored(recipe)}
    return CardText(source=recipe.SOURCE, title=recipe.heading, paper=recipe.PAPER, note=recipe.note, carried=carried)


def _stored(recipe: Recipe) -> list[Stored]:
    """The values that lie in files of their own."""
    values = [getattr(recipe, field.name) for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, Stored) and not value.is_inline]


def _read_input(value: Any, folder: Path | None) -> Any:
    """The value that a file holds, where `value` names one. A recipe's hash may be of what the file says, not of it.

    So photographs are decoded before they can be compared, within bounds that their headers tell; in a finished
    folder, `read_input` compares the file itself first.
    """
    if not isinstance(value, dict) or set(value) != {"file", "sha256"} or folder is None:
        return value
    if value["file"] not in STORED:
        raise UsageError(f"file {reprlib.repr(value['file'])}: must be {' or '.join(STORED)}")
    kind = STORED[value["file"]]
    data = read_input(folder, kind.FILE)
    with contextlib.suppress(UsageError):
        stored = kind.from_bytes(data)
        if value["sha256"] in (hashlib.sha256(data).hexdigest(), stored.sha256):
            return stored
    raise UsageError(f"{folder / kind.FILE}: is not the file that the recipe names")


def recipe_hash(recipe: Recipe) -> str:
    """sha256 (hex) of the fields of a resolved recipe that determine its pixels."""
    return hash_json({key: value for key, value in to_dict(recipe).items() if key not in recipe.PROVENANCE})


def default_folder(recipe: Recipe) -> Path:
    """A folder named after a resolved recipe; eight digits of its hash stand for what the name does not tell."""
    return Path(f"{recipe.title}-{recipe_hash(recipe)[:8]}")


def load_values(path: Path) -> dict[str, Any]:
    """The keys of a YAML recipe, or of the recipe in a rendered folder, finished or not; unchecked but for their form.

    Raises UsageError with the file, DataError for a folder that is damaged.
    """
    if path.is_dir():
        begun = None if (path / MANIFEST).exists() else read_plan(path)
        return dict((begun or load_manifest(path)).recipe)
    text = read_text(path)
    if path.name == MANIFEST or _is_manifest(text):
        return dict(read_manifest(path).recipe)
    values = parse_yaml(text, str(path))
    if not values and not isinstance(values, list):
        raise UsageError(f"{path}: empty; a recipe says at least `recipe: {DEFAULT}`")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must be a mapping of recipe keys, not {type(values).__name__}")
    return values


def _is_manifest(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text)
        return isinstance(values, dict) and values.get("format") == FORMAT
    return False


def load_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None, *, name: str | None = None) -> Recipe:
    """The recipe that a YAML file holds; `overrides` win.

    name: which recipe it must be, if not any. Raises UsageError with the file, key and value.
    """
    path = Path(path)
    values = load_values(path)
    overrides = {str(name).replace("-", "_"): value for name, value in (overrides or {}).items()}
    if name is not None and values.setdefault("recipe", name) != name:
        raise UsageError(f"{path}: is a recipe of {values['recipe']}, not of {name}")
    try:
        if (kind := values.get("recipe", DEFAULT)) in RECIPES:
            values = RECIPES[kind].rebased(values, overrides)
        kept = {key: value for key, value in values.items() if str(key).replace("-", "_") not in overrides}
        return from_dict({**kept, **overrides}, path if path.is_dir() else path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load_source(source: Path | None) -> Recipe:
    """The recipe to begin with: of a YAML file or a rendered folder; 1p-frac of a base fractal in a CSV or JSON.

    None: the published 1p-frac. Raises as `load_recipe` and `ifs.load_ifs`.
    """
    from fracgen.ifs import load_ifs

    if source is None:
        return from_dict({})
    if source.is_file() and source.suffix.lower() in (".csv", ".json") and source.name != MANIFEST:
        return from_dict({"ifs": load_ifs(source)})
    return load_recipe(source)


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe as YAML, its `inputs` beside it, each file whole or not at all; `load_recipe` reads it exactly.

    Raises UsageError where that cannot be written, or another file of an input's name is there.
    """
    path = Path(path)
    try:
        for name, data in inputs(recipe).items():
            input_path = path.with_name(name)
            if name == path.name or (input_path.exists() and input_path.read_bytes() != data):
                raise UsageError(f"{input_path}: another recipe's is there, or the YAML itself; save elsewhere")
            write_atomically(input_path, data, error=None)
        text = to_yaml(to_dict(recipe))
        if path.exists() and not path.is_file():  # a pipe, or the screen
            path.write_text(text, "utf-8")
        else:
            write_atomically(Path(os.path.realpath(path)), text, error=None)  # a link stays one
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
