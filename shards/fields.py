"""Fields of settings dataclasses: what each says of itself, in order, and as a table of the docs.

A field says what it is in one place, `name: Annotated[type, Setting(...)] = default`; the check of its value, its
option on a command line and its row in the docs are made of that.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Setting:
    """What a field means, beside its type and default.

    help: one sentence. at_least, at_most, above, below: the range of a number, or of each number of a tuple.
    option: its option, where it is not its last name with dashes; "" where it has none. panel: the group of options in
    the help; of a nested dataclass, that of all its fields. default: the default in words, where it is derived.
    metavar: what stands for the value in the help, where it is not the type. identity: False where a run may go on with
    another value, since no weight and no pixel depends on it.
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    option: str | None = None
    panel: str | None = None
    default: str | None = None
    metavar: str | None = None
    identity: bool = True

    @property
    def range(self) -> str:
        """The range in words, as in "0 to 1", "at least 1", "in (0, 6]"; "" where every number is allowed."""
        low, high = (self.at_least, self.above), (self.at_most, self.below)
        least, most = (next((_number(bound) for bound in pair if bound is not None), None) for pair in (low, high))
        if least is None or most is None:
            words = {
                "at least": self.at_least,
                "at most": self.at_most,
                "more than": self.above,
                "less than": self.below,
            }
            return "".join(f"{word} {_number(bound)}" for word, bound in words.items() if bound is not None)
        if self.above is None and self.below is None:
            return f"{least} to {most}"
        return f"in {'[('[self.above is not None]}{least}, {most}{'])'[self.below is not None]}"

    def allows(self, value: float) -> bool:
        """Whether a number lies in the range; NaN lies in none."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class FieldInfo:
    """A field of a settings dataclass. name: dotted, from the outermost dataclass. default: MISSING where required."""

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def option(self) -> str:
        """Its option on a command line; "" where it has none."""
        named = self.setting.option
        return f"--{self.name.rpartition('.')[2].replace('_', '-')}" if named is None else named

    @property
    def default_text(self) -> str:
        """The default as a user would type it; "" where there is none."""
        return self.setting.default if self.setting.default is not None else text_of(self.default)


def fields_of(kind: type, *, name: str = "", instance: Any = None) -> list[FieldInfo]:
    """The fields of a settings dataclass and of those nested in it, in order.

    instance: has the defaults, where they are not the class's own.
    """
    infos = []
    for field in schema_of(kind).values():
        default = field.default if instance is None else getattr(instance, field.name)
        if is_group(field.type):
            group = fields_of(field.type, name=f"{name}{field.name}.", instance=None if default is MISSING else default)
            panel = field.setting.panel
            infos += [
                dataclasses.replace(each, setting=dataclasses.replace(each.setting, panel=panel)) if panel else each
                for each in group
            ]
        else:
            infos.append(dataclasses.replace(field, name=f"{name}{field.name}", default=default))
    return infos


def _read_schema(kind: Any) -> dict[str, FieldInfo]:
    """The fields of one dataclass by name."""
    hints, schema = typing.get_type_hints(kind, include_extras=True), {}
    for field in dataclasses.fields(kind):
        if field.init:
            hint, setting = hints[field.name], Setting("")
            if typing.get_origin(hint) is Annotated:
                hint, *metadata = typing.get_args(hint)
                setting = next((each for each in metadata if isinstance(each, Setting)), setting)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            schema[field.name] = FieldInfo(field.name, hint, default, setting)
    return schema


schema_of: Callable[[Any], dict[str, FieldInfo]] = lru_cache(_read_schema)


def is_group(kind: Any) -> bool:
    """Whether a field's own fields are settings too; a class with `from_plain` is one value."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "from_plain")


def can_be_written(kind: Any) -> bool:
    """Whether plain values can say it; what only a file can hold (it has an OPTION) is given as an object."""
    parts = (kind, *typing.get_args(kind))
    return not any(hasattr(part, "OPTION") and not hasattr(part, "from_plain") for part in parts)


def markdown_table(kind: type, *, options: bool = True) -> str:
    """The fields of a settings dataclass as a Markdown table. options: by option name, without those that have none."""
    rows = [
        "| option | range | default | meaning |" if options else "| setting | range | default | meaning |",
        "| --- " * 4 + "|",
    ]
    for field in fields_of(kind):
        name = field.option if options else field.name
        if name and can_be_written(field.type):
            default = f"`{field.default_text}`" if field.setting.default is None else field.default_text
            cells = [f"`{name}`", range_text(field), default if field.default_text else "", field.setting.help]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def range_text(field: FieldInfo) -> str:
    """The values that a field may have, in words: its range, or the words of a choice."""
    kinds = [field.type, *typing.get_args(field.type)]
    words = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal), ())
    return ", ".join(map(str, words)) or field.setting.range


def text_of(value: Any) -> str:
    """A default as a user would type it; "" for None, nothing and MISSING."""
    if value is None or value is MISSING or value == "" or value == () or isinstance(value, Mapping):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(text_of, value))
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    """A number without digits that say nothing: 1000000, 0.1, 1e-06, 1.333."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int) and value > 2**31 and value & (value + 1) == 0:
        return f"2^{value.bit_length()}-1"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
