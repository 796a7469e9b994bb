"""The recipes by name; a recipe to and from plain values, YAML and its hash."""

import contextlib
import dataclasses
import hashlib
import reprlib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fracgen.assets import Stored
from fracgen.categories import Categories
from fracgen.fractaldb import OFDB, FractalDB
from fracgen.ifs import IFS
from fracgen.noise import Noise
from fracgen.onepfrac import OnePFrac
from fracgen.photo.photographs import Photographs
from fracgen.photo.recipe import Photo
from fracgen.recipe import Recipe as Recipe
from fracgen.shards.errors import UsageError
from fracgen.shards.manifest import FORMAT, MANIFEST, PACK, hash_json, load_manifest
from fracgen.shards.plan import read_input, read_plan
from fracgen.shards.settings import convert, nearest, parse_yaml, read_text
from fracgen.visualatom import VisualAtom

RECIPES: Mapping[str, type[Recipe]] = {
    kind.NAME: kind for kind in (OnePFrac, FractalDB, OFDB, VisualAtom, Noise, Photo)
}
STORED: Mapping[str, type[Stored]] = {kind.FILE: kind for kind in (Categories, Photographs)}


def build(name: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe `name` with these fields; fields may be spelt with dashes.

    Raises UsageError for an unknown name or key (it names the nearest), a wrong type, or a value that is not allowed.
    """
    if name == PACK:
        raise UsageError("its images were packed from files, so there is no recipe to render")
    if name not in RECIPES:
        raise UsageError(
            f"recipe {reprlib.repr(name)}: unknown{nearest(name, RECIPES)}; there are {', '.join(RECIPES)}"
        )
    recipe_type: Any = RECIPES[name]
    hints = typing.get_type_hints(recipe_type)
    types = {field.name: hints[field.name] for field in dataclasses.fields(recipe_type)}
    checked = {}
    for key, value in values.items():
        field = str(key).replace("-", "_")
        if field not in types:
            known = [name for name, kind in types.items() if _stored(kind) is None]  # a file holds the others
            raise UsageError(
                f"unknown key {reprlib.repr(key)}{nearest(field, known)}; a recipe of {name} has {', '.join(known)}"
            )
        if field in checked:
            raise UsageError(f"key {key!r} is given twice")
        checked[field] = _check_type(field, value, types[field])
    recipe: Recipe = recipe_type(**checked)
    return recipe


def _check_type(name: str, value: Any, expected: Any) -> Any:
    kinds = typing.get_args(expected)
    if type(None) in kinds:
        if value is None:
            return None
        (expected,) = (kind for kind in kinds if kind is not type(None))
    if (stored := _stored(expected)) is not None:
        if isinstance(value, stored):
            return value
        raise UsageError(f"{name} {reprlib.repr(value)}: must be left out; {stored.OPTION}")
    if expected is IFS:
        return value if isinstance(value, IFS) else IFS.from_dict(value)
    return convert(expected, value, name)


def _stored(kind: Any) -> type[Stored] | None:
    """The type that a file of its own holds, where a field has it."""
    kinds = [part for part in (kind, *typing.get_args(kind)) if isinstance(part, type) and issubclass(part, Stored)]
    return kinds[0] if kinds else None


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """All fields and the recipe's name, JSON-able; what was not given nor resolved is left out.

    What lies in a file of its own (`inputs`) is named by that file and its sha256.
    """
    values: dict[str, Any] = {"recipe": recipe.NAME}
    for name, value in _fields(recipe):
        if isinstance(value, IFS):
            value = value.to_dict()
        elif isinstance(value, Stored):
            value = {"file": value.FILE, "sha256": value.sha256}
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None:
            values[name] = value
    return values


def inputs(recipe: Recipe) -> dict[str, bytes]:
    """The files that a resolved recipe needs beside its values, by name."""
    return {value.FILE: value.to_bytes() for _, value in _fields(recipe) if isinstance(value, Stored)}


def carried(recipe: Recipe) -> dict[str, str]:
    """What `inputs` holds, by name, in words."""
    return {value.FILE: value.CONTENT for _, value in _fields(recipe) if isinstance(value, Stored)}


def _fields(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(recipe):  # type: ignore[arg-type]
        yield field.name, getattr(recipe, field.name)


def from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Recipe:
    """The inverse of `to_dict`. folder: where the files lie that the values name.

    Raises UsageError as `build` does, and where a file is missing or is another.
    """
    values = {key: _read_input(value, folder) for key, value in values.items()}
    return build(str(values.pop("recipe", OnePFrac.NAME)), values)


def _read_input(value: Any, folder: Path | None) -> Any:
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


def load_values(path: Path) -> dict[str, Any]:
    """The keys of a YAML recipe, or of the recipe in a rendered folder, finished or not; unchecked but for their form.

    Raises UsageError with the file.
    """
    if path.is_dir() and not (path / MANIFEST).exists():
        if (begun := read_plan(path)) is not None:
            return dict(begun.recipe)
        load_manifest(path)  # says what the folder is instead
    path = path / MANIFEST if path.is_dir() else path
    values = parse_yaml(read_text(path), str(path))
    if values is None:
        return {}
    if isinstance(values, dict) and values.get("format") == FORMAT:
        values = values.get("recipe")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must be a mapping of recipe keys, not {type(values).__name__}")
    return values


def load_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None, *, name: str | None = None) -> Recipe:
    """The recipe that a YAML file holds; `overrides` win.

    name: which recipe it must be, if not any. Raises UsageError with the file, key and value.
    """
    path = Path(path)
    values, overrides = load_values(path), overrides or {}
    if name is not None and values.setdefault("recipe", name) != name:
        raise UsageError(f"{path}: is a recipe of {values['recipe']}, not of {name}")
    kept = {key: value for key, value in values.items() if str(key).replace("-", "_") not in overrides}
    kind = values.get("recipe", OnePFrac.NAME)
    if isinstance(kind, str) and kind in RECIPES:
        kept = RECIPES[kind].rebased(kept, overrides)
    try:
        return from_dict({**kept, **overrides}, path if path.is_dir() else path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe as YAML, and its `inputs` beside it; `load_recipe` gives it back exactly.

    Raises UsageError where that cannot be written, or another file of an input's name is there.
    """
    path = Path(path)
    try:
        for name, data in inputs(recipe).items():
            beside = path.with_name(name)
            if name == path.name or (beside.exists() and beside.read_bytes() != data):
                raise UsageError(f"{beside}: another recipe's is there, or the YAML itself; save elsewhere")
            beside.write_bytes(data)
        path.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False), "utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be written ({error.strerror})") from error
