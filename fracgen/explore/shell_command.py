"""The command line that renders a recipe: what the page copies."""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from fracgen.base_fractals import Bases
from fracgen.ifs import IFS, rows_from_maps
from fracgen.recipe import Recipe
from fracgen.shards.fields import FieldInfo, fields_of
from fracgen.shards.settings import to_plain

WORDS: Mapping[str, str] = {
    "1p-frac": "fracgen render",
    "photo": "fracgen photo",
    "perturbed": "fracgen perturb",
}
"""Commands of recipes that are not `fracgen baseline NAME`."""
OF_BASE = ("bases", "sigma", "maps", "base_candidates", "min_acceptance", "max_base_tries")
"""Options of the search for a base fractal: beside one that is given they say nothing."""


@dataclass(frozen=True)
class InputWords:
    """Words of a command that give the inputs of a recipe: categories, photographs.

    note: what must be there first, or why there is no command. defaults: the recipe whose values the words bring.
    always: fields of which the option is given in any case. possible: whether there is a command.
    """

    words: tuple[str, ...] = ()
    note: str = ""
    defaults: Recipe | None = None
    always: tuple[str, ...] = ()
    possible: bool = True


def render_command(recipe: Recipe, bases: Bases | None, inputs: InputWords) -> str | None:
    """A command that renders this recipe, for a POSIX shell: options for what is not the default; None without one.

    bases: the base fractals, where they are not to be searched: one the command writes to a file first, several the
    inputs bring.
    """
    if not inputs.possible or (bases is not None and not bases.is_inline and not inputs.words):
        return None
    words = [*shlex.split(WORDS.get(recipe.NAME, f"fracgen baseline {recipe.NAME}")), *inputs.words]
    prefix = ""
    if bases is not None and bases.is_inline:
        text = base_csv(bases[0])
        rows, name = text.splitlines(), f"base-{hashlib.sha256(text.encode()).hexdigest()[:8]}.csv"
        prefix = f"printf '%s\\n' {' '.join(rows)} > {name} && "
        words += ["--ifs", name]
    skipped = {*getattr(recipe, "derived", ()), *(OF_BASE if bases is not None else ())}
    for field in fields_of(type(recipe)):
        value, default = getattr(recipe, field.name), field.default
        if inputs.defaults is not None:
            default = getattr(inputs.defaults, field.name)
        if not field.option or field.name in skipped or (value == default and field.name not in inputs.always):
            continue
        if value is None:
            return None  # no option takes a value back
        words += _option(field, value)
    return prefix + shlex.join(words)


def _option(field: FieldInfo, value: Any) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    if field.default is not MISSING and isinstance(value, bool):
        return [field.option if value else field.option.replace("--", "--no-", 1)]
    return [word for each in values for word in (field.option, _text(each))]


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(to_plain(value))


def base_csv(ifs: IFS) -> str:
    """A category file: a row a, b, c, d, e, f, p for each map; the floats survive exactly."""
    rows = zip(rows_from_maps(ifs.maps).tolist(), ifs.p.tolist(), strict=True)
    return "".join(",".join(map(repr, [*row, p])) + "\n" for row, p in rows)
