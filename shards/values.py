"""Plain values that a user writes, in YAML or on a command line: read strictly, with errors that name the mend."""

import dataclasses
import difflib
import re
import reprlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fracgen.shards.errors import UsageError

T = TypeVar("T")
_MAX_FILE_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 256 << 20


def nearest(word: str, words: Iterable[str]) -> str:
    """ ", did you mean 'x'?", where one of `words` is near; else nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def check_value(name: str, value: Any, expected: Any) -> Any:
    """`value` as `expected`: bool, int, float, str, a Literal, a tuple of one of these, or a mapping (unchecked).

    Whole numbers do for floats. Raises UsageError with the name and the value.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    shown = f"{name} {reprlib.repr(value)}"
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{shown}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        if Ellipsis not in arguments and len(values) != len(arguments):
            raise UsageError(f"{shown}: must be {len(arguments)} values")
        return tuple(check_value(name, item, arguments[0]) for item in values)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"{shown}: must be a mapping")
        return dict(value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UsageError(f"{shown}: too large") from None
    if (isinstance(value, bool) and expected is not bool) or not isinstance(value, expected):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[expected]
        raise UsageError(f"{shown}: must be {kind}")
    return value


def build(kind: type[T], values: Mapping[Any, Any], where: str = "") -> T:
    """A dataclass, of values and of dataclasses, from mappings of mappings; what is not given is its default.

    Raises UsageError for an unknown key (it names the nearest), a wrong type, or a value that is not allowed.
    """
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        if key not in known:
            hint = nearest(str(key), known)
            raise UsageError(f"unknown key {reprlib.repr(f'{where}{key}')}{hint}; there are {', '.join(known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}{key} {reprlib.repr(value)}: must be a mapping")
            checked[key] = build(hints[key], value, f"{where}{key}.")
        else:
            checked[key] = check_value(f"{where}{key}", value, hints[key])
    return kind(**checked)


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are decimal (1e-3 is one; 010 and 12:30 are text), and whose keys may not repeat."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        repeated = [key for number, key in enumerate(keys) if key in keys[:number]]
        if repeated:
            raise UsageError(f"key {reprlib.repr(repeated[0])} is given twice")
        return super().construct_mapping(node, deep)


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in zip(
    _NUMBERS,
    (
        r"[-+]?(0|[1-9][0-9_]*)$",
        r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$",
    ),
    strict=True,
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+0123456789."))


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text holds. Raises UsageError with its source where it is none."""
    try:
        return yaml.load(text, _Loader)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(f"{source}: not YAML ({' '.join(str(error).split())})") from error


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
