"""Dataclasses of settings from plain values and back: YAML, command lines, Python calls, our own JSON files."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar

from fracgen.shards.errors import UsageError
from fracgen.shards.fields import FieldInfo as FieldInfo
from fracgen.shards.fields import Setting as Setting
from fracgen.shards.fields import can_be_written, is_group, schema_of
from fracgen.shards.fields import fields_of as fields_of
from fracgen.shards.fields import markdown_table as markdown_table
from fracgen.shards.files import ONLY_LOCAL, check_local
from fracgen.shards.urls import is_url, redact

T = TypeVar("T")
_MAX_FILE_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 256 << 20


def check_settings(instance: Any) -> None:
    """Check types and ranges of all fields of a frozen dataclass, in its `__post_init__`.

    numpy's numbers become Python's, whole numbers for floats floats, lists for tuples tuples, -0.0 becomes 0.0.
    Raises UsageError with field, value and what is allowed.
    """
    for name, field in schema_of(type(instance)).items():
        value = getattr(instance, name)
        if field.default is None and value is None:
            continue
        object.__setattr__(instance, name, check_value(field, value, name))


def from_plain(kind: type[T], values: Mapping[Any, Any], prefix: str = "") -> T:
    """A settings dataclass from a mapping, nested ones from mappings in it; what is left out has its default.

    A key may be spelt with dashes. prefix: begins the names in messages, as in "optim.".
    Raises UsageError for an unknown key (it names the nearest), a wrong type, or a value that is not allowed.
    """
    return _build(kind, values, prefix)


def from_json(kind: type[T], value: Any) -> T:
    """A dataclass from one of our own JSON files, whose writer may be newer: unknown keys are passed over.

    Raises TypeError with the name of what is missing or of another type.
    """
    return _build(kind, value, "", is_json=True)


def _build(kind: type[T], values: Any, prefix: str, *, is_json: bool = False) -> T:
    if not isinstance(values, Mapping):
        raise _error(is_json)(f"{prefix.rstrip('.')} {reprlib.repr(values)}: must be a mapping".strip())
    schema, checked = schema_of(kind), {}
    for key, value in values.items():
        name = str(key) if is_json else str(key).replace("-", "_")
        if name in checked:
            raise UsageError(f"key {prefix}{key} is given twice")
        if name in schema:
            checked[name] = check_value(schema[name], value, f"{prefix}{name}", is_json=is_json)
        elif not is_json:
            known = [name for name, field in schema.items() if can_be_written(field.type)]
            shown = reprlib.repr(f"{prefix}{key}")
            groups = [each for each in known if is_group(schema[each].type) and name in schema_of(schema[each].type)]
            hint = ", or ".join(f"{prefix}{group}.{name}" for group in groups)  # its group was left out
            hint = f", did you mean {hint}" if hint else nearest(name, known)
            raise UsageError(f"unknown key {shown}{hint}; there are {', '.join(known)}")
    for name, field in schema.items():
        if name not in checked and field.default is MISSING:
            raise _error(is_json)(f"{prefix}{name} is missing")
    return kind(**checked)


def check_value(field: FieldInfo, value: Any, name: str, *, is_json: bool = False) -> Any:
    """A value of a field, converted and in its range.

    name: stands for the field in the UsageError that is raised where the value is not allowed.
    """
    value, setting = convert(field.type, value, name, is_json=is_json), field.setting
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, int | float) and setting.range and not setting.allows(number):
            raise UsageError(f"{name} {number}: must be {setting.range}")
    return value


def _error(is_json: bool) -> type[Exception]:
    """What a value of another type raises."""
    return TypeError if is_json else UsageError


def convert(kind: Any, value: Any, name: str, *, is_json: bool = False) -> Any:
    """`value` as a field of type `kind` holds it; whole numbers do for floats, a lone value for a tuple of one.

    is_json: from our own JSON, where a lone value does for no tuple and unknown keys are passed over.
    Raises UsageError with the name and the value.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)

    def refusal(words: str) -> Exception:
        shown = redact(value) if isinstance(value, str) else value
        return _error(is_json)(f"{name} {reprlib.repr(shown)}: {words}")

    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (part for part in arguments if part is not type(None))
        return convert(kind, value, name, is_json=is_json)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in arguments):
            hint = nearest(value, map(str, arguments)) if isinstance(value, str) else ""
            raise refusal(f"must be one of {', '.join(map(str, arguments))}{hint}")
        return value
    if origin is list:
        several: Any = tuple[arguments[0], ...]  # type: ignore[valid-type]
        return list(convert(several, value, name, is_json=is_json))
    if origin is tuple:
        if is_json and not isinstance(value, list):
            raise refusal("must be a list")
        values = value if isinstance(value, list | tuple) else [value]
        if Ellipsis in arguments:
            arguments = (arguments[0],) * len(values)
        if len(values) != len(arguments):
            raise refusal(f"must be {len(arguments)} values")
        return tuple(
            convert(part, item, f"{name}[{number}]" if is_json else name, is_json=is_json)
            for number, (part, item) in enumerate(zip(arguments, values, strict=True))
        )
    if kind is Mapping or origin is Mapping:
        if not isinstance(value, Mapping):
            raise refusal("must be a mapping")
        inner = arguments[1] if arguments else Any
        return {key: convert(inner, item, f"{name}.{key}", is_json=is_json) for key, item in value.items()}
    if kind in (bool, int, float, str, Path):
        return _scalar(kind, value, refusal)
    if isinstance(value, kind):
        return value
    if hasattr(kind, "from_plain"):
        return kind.from_plain(value)
    if dataclasses.is_dataclass(kind) and can_be_written(kind):
        group: Any = kind
        return _build(group, value, f"{name}.", is_json=is_json)
    raise refusal(f"must be left out, or a {kind.__name__}; {kind.OPTION}")


def _scalar(kind: Any, value: Any, refusal: Callable[[str], Exception]) -> Any:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, Path) and "\0" in str(value):
        raise refusal("must hold no NUL character")
    if kind is float and (is_whole or isinstance(value, float)):
        try:
            return float(value) + 0.0  # one zero, one hash
        except OverflowError:
            raise refusal("too large") from None
    if kind is Path and isinstance(value, str | Path):
        if is_url(value):
            raise refusal(ONLY_LOCAL)
        return Path(value)
    if kind is int and is_whole:
        return int(value)
    if kind in (str, bool) and isinstance(value, kind):
        return kind(value)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    raise refusal(f"must be {words[kind]}")


def to_plain(value: Any) -> Any:
    """Plain values, as YAML and JSON hold them, of a settings dataclass or of a field's value.

    The inverse of `from_plain`, but for secrets of URLs, which are hidden: these values are stored and logged.
    """
    if isinstance(value, str):
        return redact(value)
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
    defaults = {name: field.default for name, field in schema_of(type(value)).items() if name in later}
    return {name: item for name, item in dataclasses.asdict(value).items() if defaults.get(name, MISSING) != item}


def load_settings(kind: type[T], path: str | None, options: Mapping[str, Any], overrides: Iterable[str] = ()) -> T:
    """Settings from their defaults, a YAML file, then options by dotted name, then overrides "dotted.name=value".

    Raises UsageError with the file, key and value.
    """
    from fracgen.shards.strict_yaml import parse_override

    values: dict[str, Any] = {}
    overrides = list(overrides)
    if path is not None:
        values = parse_yaml(read_text(path), path) or {}
        if not isinstance(values, dict):
            raise UsageError(f"{path}: must be a mapping of settings, not {type(values).__name__}")
    defaults = to_plain(kind())

    def with_changes(changes: Iterable[tuple[str, Any]]) -> T:
        changed = _spelt(values, defaults)
        for name, value in changes:
            _set(changed, name, value, defaults)
        return from_plain(kind, _over(defaults, _spelt(changed, defaults)))

    try:
        return with_changes([*options.items(), *map(parse_override, overrides)])
    except UsageError as error:
        refusal = str(error)
    try:
        with_changes(())
    except UsageError as error:
        if path is not None and str(error) == refusal:  # no option or override is at fault
            refusal = f"{path}: {refusal}"
    raise UsageError(refusal)


def _spelt(values: Mapping[Any, Any], known: Any) -> dict[Any, Any]:
    """The same with underscores for the dashes of each key that is a setting so, as `known` has them."""
    inner = known if isinstance(known, Mapping) else {}
    spelt: dict[Any, Any] = {}
    for key, value in values.items():
        name = name if (name := str(key).replace("-", "_")) in inner else key
        if name in spelt:
            raise UsageError(f"key {key} is given twice")
        spelt[name] = _spelt(value, inner.get(name)) if isinstance(value, Mapping) else value
    return spelt


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over defaults, group by group: a protocol's defaults may differ from those of the groups."""
    inner = {
        name: _over(defaults[name], value)
        for name, value in values.items()
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
    }
    return {**defaults, **values, **inner}


def _set(values: dict[str, Any], name: str, value: Any, known: Any) -> None:
    """Put a value where its dotted name says. known: the defaults, as of `_spelt`."""
    first, dot, rest = name.partition(".")
    inner = known if isinstance(known, Mapping) else {}
    first = spelt if (spelt := first.replace("-", "_")) in inner else first
    if not dot:
        values[first] = value
        return
    if not isinstance(group := values.setdefault(first, {}), dict):
        raise UsageError(f"{name}: {first} is a value, not a group of settings")
    _set(group, rest, value, inner.get(first))


def differences(kind: type, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes two runs with these plain values different runs, as in "schedule.steps 100, was 200".

    A field that is absent has its default: the version that wrote the values had no such setting yet.
    """
    fields = fields_of(kind)
    free = {field.name for field in fields if not field.setting.identity}
    defaults = {field.name: to_plain(field.default) for field in fields}
    before, after = ({**defaults, **dict(_flat(values))} for values in (old, new))
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


def nearest(word: str, words: Iterable[str]) -> str:
    """ ", did you mean 'x'?", where one of `words` is near; else nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text holds. Raises UsageError with its source where it is none."""
    from fracgen.shards.strict_yaml import parse

    return parse(text, source)


def to_yaml(values: Mapping[str, Any]) -> str:
    """The text of a YAML file with these values, in their order, which `parse_yaml` reads as they are."""
    from fracgen.shards.strict_yaml import to_text

    return to_text(values)


def read_text(path: Path | str) -> str:
    """The text of a small file that a user names. Raises UsageError where it is none."""
    check_local(path)
    path = Path(path)
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
