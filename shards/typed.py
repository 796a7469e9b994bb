"""Frozen dataclasses from JSON, with every type checked."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def as_dict(value: Any, later: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a dataclass, JSON-able; those of `later` only where they are not the default.

    What came to a format after others wrote it is thus absent where it says nothing, and old bytes stay as they were.
    """
    default = {name: _default(field) for field in dataclasses.fields(value) if (name := field.name) in later}
    return {name: item for name, item in dataclasses.asdict(value).items() if default.get(name, _ABSENT) != item}


_ABSENT = object()


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field; MISSING where it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def parse(kind: type[T], value: Any) -> T:
    """`value`, as JSON gives it, as a `kind`: a dataclass of str, int, bool, Any, mappings, tuples and dataclasses.

    Keys that the dataclass does not have are passed over; a field with a default may be missing.
    Raises TypeError with the name of what is missing or of another type.
    """
    parsed: T = _parse(kind, value, kind.__name__)
    return parsed


def _parse(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    expected = {tuple: list, Mapping: dict}.get(origin, dict if dataclasses.is_dataclass(kind) else kind)
    if type(value) is not expected:
        raise TypeError(f"{where} is {type(value).__name__}, not {expected.__name__}")
    if origin is tuple:
        return tuple(_parse(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is Mapping:
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if not dataclasses.is_dataclass(kind):
        return value
    make: Any = kind
    hints, fields = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            fields[field.name] = _parse(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif _default(field) is dataclasses.MISSING:
            raise TypeError(f"{where}.{field.name} is missing")
    return make(**fields)
