"""Options of a command line: one for each field of a settings dataclass, and how the text of any is read."""

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fracgen.shards.fields import FieldInfo, Setting, fields_of, text_of
from fracgen.shards.settings import check_value, from_plain


def options_from(
    kind: type,
    names: Iterable[str] | None = None,
    *,
    into: str = "option_values",
    build: bool = False,
    defaults: Any = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command an option for each field of a settings dataclass, nested ones included.

    names: the dotted names that get one, all by default. defaults: an instance whose values the help shows. The command
    receives, as argument `into`, what was typed: a value by dotted name, of its type and in its range.
    build: it receives the dataclass instead, with its defaults for the rest.
    """
    fields = {field.name: field for field in fields_of(kind, instance=defaults)}
    chosen = {name: fields[name].option for name in (fields if names is None else names)}
    chosen = {name: option for name, option in chosen.items() if option and _option_type(fields[name].type)}
    parameters = {name.replace(".", "__"): _parameter(fields[name], option) for name, option in chosen.items()}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> Any:
            typed = {parameter: arguments.pop(parameter) for parameter in parameters}
            values = {
                name: check_value(fields[name], value, chosen[name])
                for name in chosen
                if (value := typed[name.replace(".", "__")]) is not None and value != []
            }
            return command(**arguments, **{into: from_plain(kind, values) if build else values})

        signature = inspect.signature(command)
        own = [parameter for name, parameter in signature.parameters.items() if name != into]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        added = [parameter for name, parameter in parameters.items()]
        annotations = typing.get_type_hints(command, include_extras=True)
        annotations.pop(into, None)
        with_options.__signature__ = signature.replace(parameters=[*added, *own])  # type: ignore[attr-defined]
        with_options.__annotations__ = {**{each.name: each.annotation for each in added}, **annotations}
        return with_options

    return decorate


def _parameter(field: FieldInfo, option: str) -> inspect.Parameter:
    """The keyword of a command that stands for a field; None where it is not typed."""
    words = with_notes(field.setting.help, field.setting.range, "" if field.default is False else field.default_text)
    spelling = f"{option}/--no-{option[2:]}" if field.default is True else option
    kind = _option_type(field.type)
    is_path = Path in (field.type, *typing.get_args(field.type))
    info = typer.Option(
        spelling,
        help=words,
        metavar=field.setting.metavar or ("<path>" if is_path else _metavar(kind)),
        rich_help_panel=field.setting.panel,
        show_default=False,
    )
    kind = Annotated[kind | None, info]
    return inspect.Parameter(
        field.name.replace(".", "__"), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def with_notes(text: str, numbers: str, default: str) -> str:
    """What an option means, with its range and its default behind it."""
    notes = [note for note in (numbers, default and f"default: {default}") if note]
    return f"{text}  [{'; '.join(notes)}]" if notes else text


def _option_type(kind: Any) -> Any:
    """The type of an option for a field of type `kind`; None where a command line cannot say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _option_type(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        return list[arguments[0]] if Ellipsis in arguments else kind  # type: ignore[valid-type]
    if kind is Path:
        return str  # so that a message shows it as it was typed
    return kind if origin is Literal or kind in (bool, int, float, str) else None


def read_plainly(params: list[Any]) -> list[Any]:
    """Have values read by `_TextReader` where typer would import pydantic for it, which takes 0.1 s."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is not None and _is_plain(descriptor.annotation):
            param._runtime_param = _TextReader(descriptor.annotation)
    return params


def help_record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """A line of the help, the same for options made of settings and for others; None where there is none."""
    record: tuple[str, str] | None = param.get_help_record(ctx)
    if record is None or not hasattr(param, "type_descriptor"):
        return record
    if param.param_type_name == "argument":
        return param.display_name_raw, param.help or ""
    kind, names = param.type_descriptor.annotation, ", ".join(sorted(param.opts, key=len))
    names += f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else ""
    names += "" if param.is_flag else f" {param.metavar or _metavar(kind)}"
    limits = Setting("", at_least=param.min, at_most=param.max)
    default = text_of(param.default) if param.show_default and param.default is not False else ""
    default = param.show_default if isinstance(param.show_default, str) else default
    return names, with_notes(param.help or "", limits.range, default)


def _metavar(kind: Any) -> str:
    """The type of an option in the help: <int>, <a|b>, <float> <float>."""
    parts = [part for part in typing.get_args(kind) if part is not Ellipsis]
    if typing.get_origin(kind) is Literal:
        return f"<{'|'.join(map(str, parts))}>"
    return " ".join(f"<{getattr(part, '__name__', 'value').lower()}>" for part in parts or [kind])


class _TextReader:
    """Reads the text of one option or argument, with the checks and messages of `settings`."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value that is typed, of the option's type and in its range. Raises UsageError with the option."""
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        name = max(param.opts, key=len) if param.param_type_name == "option" else param.display_name_raw
        limits = Setting("", at_least=getattr(param, "min", None), at_most=getattr(param, "max", None))
        value = _from_text(self._kind, value)
        return check_value(FieldInfo(name, self._kind, None, limits), list(value) if is_list else value, name)


def _from_text(kind: Any, value: Any) -> Any:
    """A value of which the text says a number or a word of a choice; other text as it is, for `convert` to refuse."""
    parts = [part for part in typing.get_args(kind) if part is not Ellipsis]
    if isinstance(value, list | tuple):
        kinds = parts if typing.get_origin(kind) is tuple else parts * len(value)
        return tuple(map(_from_text, kinds, value))
    if typing.get_origin(kind) is Literal:
        return next((word for word in parts if str(word) == value), value)
    if kind in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _is_plain(kind: Any) -> bool:
    """Whether `convert` knows the type of an option."""
    inner = [part for part in typing.get_args(kind) if part is not Ellipsis]
    if typing.get_origin(kind) in (list, tuple):
        return all(map(_is_plain, inner))
    return typing.get_origin(kind) is Literal or kind in (bool, int, float, str, Path)
