"""Dataclasses of settings from plain values and back: YAML, command lines, Python calls, our own JSON files.

A field says what it is in one place, `name: Annotated[type, Setting(...)] = default`; the check of its value, its
option on a command line and its row in the docs are made of that.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fracgen.shards.errors import UsageError

T = TypeVar("T")
_MAX_FILE_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 256 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class Setting:
    """What a field means, beside its type and default.

    help: one sentence. at_least, at_most, above, below: the range of a number, or of each number of a tuple.
    option: its option, where it is not its last name with dashes; "" where it has none. panel: the group of options in
    the help. default: the default in words, where it is derived. metavar: what
    stands for the value in the help, where it is not the type. identity: False where a run may go on with
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
    found = []
    for field in _schema(kind).values():
        default = field.default if instance is None else getattr(instance, field.name)
        if _is_group(field.type):
            found += fields_of(
                field.type, name=f"{name}{field.name}.", instance=None if default is MISSING else default
            )
        else:
            found.append(dataclasses.replace(field, name=f"{name}{field.name}", default=default))
    return found


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


_schema: Callable[[Any], dict[str, FieldInfo]] = lru_cache(_read_schema)


def _is_group(kind: Any) -> bool:
    """Whether a field's own fields are settings too; a class with `from_plain` is one value."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "from_plain")


def check_settings(instance: Any) -> None:
    """Check types and ranges of all fields of a frozen dataclass, in its `__post_init__`.

    numpy's numbers become Python's, whole numbers for floats floats, lists for tuples tuples, -0.0 becomes 0.0.
    Raises UsageError with field, value and what is allowed.
    """
    for name, field in _schema(type(instance)).items():
        value = getattr(instance, name)
        if field.default is None and value is None:
            continue
        object.__setattr__(instance, name, check_value(field, value, name))


def from_plain(kind: type[T], values: Mapping[Any, Any], where: str = "") -> T:
    """A settings dataclass from a mapping, nested ones from mappings in it; what is left out has its default.

    A key may be spelt with dashes. where: begins the names in messages, as in "optim.".
    Raises UsageError for an unknown key (it names the nearest), a wrong type, or a value that is not allowed.
    """
    return _build(kind, values, where)


class _WrongTypeError(UsageError):
    """A value of another type than its field's."""


def from_json(kind: type[T], value: Any) -> T:
    """A dataclass from one of our own JSON files, whose writer may be newer: unknown keys are passed over.

    Raises TypeError with the name of what is missing or of another type.
    """
    try:
        return _build(kind, value, "", ours=True)
    except _WrongTypeError as error:
        raise TypeError(f"{kind.__name__}: {error}") from None


def _build(kind: type[T], values: Any, where: str, *, ours: bool = False) -> T:
    if not isinstance(values, Mapping):
        raise _WrongTypeError(f"{where.rstrip('.')} {reprlib.repr(values)}: must be a mapping".strip())
    schema, checked = _schema(kind), {}
    for key, value in values.items():
        name = str(key) if ours else str(key).replace("-", "_")
        if name in checked:
            raise UsageError(f"key {where}{key} is given twice")
        if name in schema:
            checked[name] = check_value(schema[name], value, f"{where}{name}", ours=ours)
        elif not ours:
            known = [name for name, field in schema.items() if _can_be_written(field.type)]
            shown = reprlib.repr(f"{where}{key}")
            raise UsageError(f"unknown key {shown}{nearest(name, known)}; there are {', '.join(known)}")
    for name, field in schema.items():
        if name not in checked and field.default is MISSING:
            raise _WrongTypeError(f"{where}{name} is missing")
    return kind(**checked)


def check_value(field: FieldInfo, value: Any, name: str, *, ours: bool = False) -> Any:
    """A value of a field, converted and in its range.

    name: stands for the field in the UsageError that is raised where the value is not allowed.
    """
    value, setting = convert(field.type, value, name, ours=ours), field.setting
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, int | float) and setting.range and not setting.allows(number):
            raise UsageError(f"{name} {number}: must be {setting.range}")
    return value


def convert(kind: Any, value: Any, name: str, *, ours: bool = False) -> Any:
    """`value` as a field of type `kind` holds it; whole numbers do for floats, a lone value for a tuple of one.

    ours: from our own JSON, where a lone value does for no tuple and unknown keys are passed over.
    Raises UsageError with the name and the value.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (part for part in arguments if part is not type(None))
        return convert(kind, value, name, ours=ours)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    shown = f"{name} {reprlib.repr(value)}"
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in arguments):
            raise _WrongTypeError(f"{shown}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        several: Any = tuple[arguments[0], ...]  # type: ignore[valid-type]
        return list(convert(several, value, name, ours=ours))
    if origin is tuple:
        if ours and not isinstance(value, list):
            raise _WrongTypeError(f"{shown}: must be a list")
        values = value if isinstance(value, list | tuple) else [value]
        if Ellipsis in arguments:
            arguments = (arguments[0],) * len(values)
        if len(values) != len(arguments):
            raise _WrongTypeError(f"{shown}: must be {len(arguments)} values")
        return tuple(
            convert(part, item, f"{name}[{number}]" if ours else name, ours=ours)
            for number, (part, item) in enumerate(zip(arguments, values, strict=True))
        )
    if kind is Mapping or origin is Mapping:
        if not isinstance(value, Mapping):
            raise _WrongTypeError(f"{shown}: must be a mapping")
        inner = arguments[1] if arguments else Any
        return {key: convert(inner, item, f"{name}.{key}", ours=ours) for key, item in value.items()}
    if kind in (bool, int, float, str, Path):
        return _scalar(kind, value, shown)
    if isinstance(value, kind):
        return value
    if hasattr(kind, "from_plain"):
        return kind.from_plain(value)
    if dataclasses.is_dataclass(kind) and _can_be_written(kind):
        group: Any = kind
        return _build(group, value, f"{name}.", ours=ours)
    raise _WrongTypeError(f"{shown}: must be left out, or a {kind.__name__}; {kind.OPTION}")


def _scalar(kind: Any, value: Any, shown: str) -> Any:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (is_whole or isinstance(value, float)):
        try:
            return float(value) + 0.0  # one zero, one hash
        except OverflowError:
            raise _WrongTypeError(f"{shown}: too large") from None
    if kind is Path and isinstance(value, str | Path):
        if _URL.match(str(value)):
            raise _WrongTypeError(f"{shown}: is a URL; only paths of this machine are supported")
        return Path(value)
    if kind is int and is_whole:
        return int(value)
    if kind in (str, bool) and isinstance(value, kind):
        return kind(value)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    raise _WrongTypeError(f"{shown}: must be {words[kind]}")


def _can_be_written(kind: Any) -> bool:
    """Whether plain values can say it; what lies in a file of its own (it has an OPTION) is given as an object."""
    return not any(hasattr(part, "OPTION") for part in (kind, *typing.get_args(kind)))


def to_plain(value: Any) -> Any:
    """Plain values, as YAML and JSON hold them, of a settings dataclass or of a field's value.

    The inverse of `from_plain`.
    """
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def as_dict(value: Any, later: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a dataclass, JSON-able; those of `later` only where they are not the default.

    What came to a format after others wrote it is thus absent where it says nothing, and old bytes stay as they were.
    """
    defaults = {name: field.default for name, field in _schema(type(value)).items() if name in later}
    return {name: item for name, item in dataclasses.asdict(value).items() if defaults.get(name, MISSING) != item}


def load_settings(kind: type[T], path: str | None, options: Mapping[str, Any], overrides: Iterable[str] = ()) -> T:
    """Settings from their defaults, a YAML file, then options by dotted name, then overrides "dotted.name=value".

    Raises UsageError with the file, key and value.
    """
    values: dict[str, Any] = {}
    overrides = list(overrides)
    if path is not None:
        values = parse_yaml(read_text(Path(path)), path) or {}
        if not isinstance(values, dict):
            raise UsageError(f"{path}: must be a mapping of settings, not {type(values).__name__}")
    for name, value in options.items():
        _set(values, name, value)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise UsageError(f"{override!r}: an override is NAME=VALUE, as in augment.erase=0.25")
        _set(values, name, parse_yaml(text, override))
    try:
        return from_plain(kind, _over(to_plain(kind()), values))
    except UsageError as error:
        raise UsageError(f"{path}: {error}" if path and not (options or overrides) else str(error)) from None


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over defaults, group by group: a protocol's defaults may differ from those of the groups."""
    inner = {
        name: _over(defaults[name], value)
        for name, value in values.items()
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
    }
    return {**defaults, **values, **inner}


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        inner = values.setdefault(group, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{name}: {group} is a value, not a group of settings")
        values = inner
    values[last] = value


def differences(kind: type, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes two runs with these plain values different runs, as in "schedule.steps 100, was 200"."""
    free = {field.name for field in fields_of(kind) if not field.setting.identity}
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        f"{name} {after.get(name)}, was {before.get(name)}"
        for name in sorted({*before, *after})
        if name not in free and before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def markdown_table(kind: type, *, options: bool = True) -> str:
    """The fields of a settings dataclass as a Markdown table. options: by option name, without those that have none."""
    rows = [
        "| option | range | default | meaning |" if options else "| setting | range | default | meaning |",
        "| --- " * 4 + "|",
    ]
    for field in fields_of(kind):
        name = field.option if options else field.name
        if name and _can_be_written(field.type):
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
        return f"2^{value.bit_length()} - 1"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def nearest(word: str, words: Iterable[str]) -> str:
    """ ", did you mean 'x'?", where one of `words` is near; else nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text holds. Raises UsageError with its source where it is none."""
    from fracgen.shards.strict_yaml import parse

    return parse(text, source)


def to_yaml(values: Mapping[str, Any]) -> str:
    """The text of a YAML file with these values, in their order."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def read_text(path: Path) -> str:
    """The text of a small file that a user names. Raises UsageError where it is none."""
    limit = _MAX_MANIFEST_BYTES if path.name == "dataset.json" else _MAX_FILE_BYTES
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: not a file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise UsageError(f"{path}: larger than {limit >> 20} MiB, so not what it should be")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file") from error
