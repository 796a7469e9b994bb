"""Command lines made of settings: an option for each field, grouped help, lazy commands, one line for each error."""

import contextlib
import functools
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.settings import FieldInfo, Setting, check_value, fields_of

_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's base of all errors in the words of a command line; typer brings its own click, or not, by version."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 1000}
"""Help is as wide as the terminal."""
_MAX_NAME = 28
"""Longer names of options have a line of their own."""


class Command(TyperCommand):
    """A command whose help has a section for each panel of options, and whose values are read by `settings`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Arguments and options."""
        return _read_plainly(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then a section for each panel in the order of the options, those of no panel last."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                other = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or other, []).append(record)
        sections["Options"] = sections.pop("Options", [])
        _write_sections(formatter, sections)


def _read_plainly(params: list[Any]) -> list[Any]:
    """Have values read by `_TextReader` where typer would import pydantic for it, which takes 0.1 s."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is not None and _is_plain(descriptor.annotation):
            param._runtime_param = _TextReader(descriptor.annotation)
    return params


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


class LazyCommand(typing.NamedTuple):
    """Where a command lies, and what the help says of it before it is imported.

    place: "module:name" of a function or of a typer application. summary: the first paragraph of its docstring.
    """

    place: str
    summary: str
    panel: str = "Commands"

    def load(self) -> Any:
        """Import the command."""
        module, _, name = self.place.partition(":")
        command = getattr(importlib.import_module(module), name)
        return typer.main.get_command(command if isinstance(command, typer.Typer) else command_app(command))


class LazyGroup(TyperGroup):
    """A group of commands that are imported when they run; see `lazy_group`."""

    lazy: Mapping[str, LazyCommand] = types.MappingProxyType({})

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options."""
        return _read_plainly(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, imported; None where there is none."""
        return self.lazy[cmd_name].load() if cmd_name in self.lazy else None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel of commands, with their whole summaries, then the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.lazy.items():
            sections.setdefault(command.panel, []).append((name, command.summary))
        records = (param.get_help_record(ctx) for param in self.get_params(ctx))
        _write_sections(formatter, {**sections, "Options": [record for record in records if record is not None]})


def lazy_group(
    commands: Mapping[str, LazyCommand], text: str, callback: Callable[..., None] | None = None
) -> typer.Typer:
    """An application of many commands, none of which is imported for the help. text: begins the help.

    callback: takes the group's own options, and calls `show_help` where no command was typed.
    """
    group = type("Group", (LazyGroup,), {"lazy": dict(commands)})
    app = new_app(cls=group, help=text, invoke_without_command=True)
    app.callback()(callback or show_help)
    return app


def show_help(context: typer.Context) -> None:
    """Print the help of a group of which no command was typed."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def new_app(**options: Any) -> typer.Typer:
    """A typer application with plain tracebacks and plain help: rich takes longer to import than all of the rest."""
    settings = {
        "add_completion": False,
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
        "context_settings": CONTEXT,
    }
    return typer.Typer(**{**settings, **options})


def command_app(command: Callable[..., Any]) -> typer.Typer:
    """The application of one command."""
    app = new_app()
    app.command(cls=Command, context_settings=CONTEXT)(command)
    return app


def summary_of(text: str | None) -> str:
    """The first paragraph of a docstring, in a line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _write_sections(formatter: Any, sections: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write titled lists whose second columns begin at one place."""
    width = max((len(name) for rows in sections.values() for name, _ in rows if len(name) <= _MAX_NAME), default=0)
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows], col_max=width)


def options_from(
    kind: type,
    names: Mapping[str, str] | Iterable[str] | None = None,
    *,
    into: str = "given",
    defaults: Any = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command an option for each field of a settings dataclass, nested ones included.

    names: the dotted names that get one, all by default; a mapping gives the option's spelling too. defaults: an
    instance whose values the help shows. The command receives, as argument `into`, what was typed: a value by dotted
    name, of its type and in its range.
    """
    fields = {field.name: field for field in fields_of(kind, instance=defaults)}
    spelt = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names if names is not None else fields, "")
    chosen = {name: spelt[name] or fields[name].option for name in spelt if name in fields}
    if missing := set(spelt) - set(fields):
        raise KeyError(f"{kind.__name__} has no {min(missing)}")
    chosen = {name: option for name, option in chosen.items() if option and _option_type(fields[name].type)}
    parameters = {name.replace(".", "__"): _parameter(fields[name], option) for name, option in chosen.items()}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> Any:
            typed = {parameter: arguments.pop(parameter) for parameter in parameters}
            given = {name: typed[name.replace(".", "__")] for name in chosen}
            given = {
                name: check_value(fields[name], value, chosen[name])
                for name, value in given.items()
                if value is not None and value != []
            }
            return command(**arguments, **{into: given})

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
    words = [field.setting.help]
    notes = [field.setting.range] if field.setting.range else []
    if field.default_text and field.default is not False:
        notes.append(f"default: {field.default_text}")
    if notes:
        words.append(f" [{'; '.join(notes)}]")
    spelling = f"{option}/--no-{option[2:]}" if field.default is True else option
    kind = _option_type(field.type)
    parts = typing.get_args(kind) if typing.get_origin(kind) in (list, tuple) else ()
    if kind is str and Path in (field.type, *typing.get_args(field.type)):
        parts = (Path,)
    info = typer.Option(
        spelling,
        help=" ".join(words),
        metavar=field.setting.metavar or " ".join(f"<{part.__name__.lower()}>" for part in parts) or None,
        rich_help_panel=field.setting.panel,
        show_default=False,
    )
    kind = Annotated[kind | None, info]
    return inspect.Parameter(
        field.name.replace(".", "__"), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


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


def set_up_streams() -> None:
    """Give stdout and stderr a place where the caller closed them, and letters that they lack as escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  it stays open
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main(
    app: typer.Typer,
    name: str,
    arguments: Sequence[str],
    *,
    explain: Callable[[Exception], str | None] = lambda error: None,
    memory_hint: str = "lower --size, --points or --workers",
    place: Callable[[], str] = lambda: "",
) -> int:
    """Run a command line; returns the exit code. What a user can mend becomes one line on stderr.

    0: good; 1: data, memory, disk; 2: usage; 130: interrupted. explain: the line for an error that only this program
    knows, or None. place: which of several processes speaks, as in " (rank 1)".
    """
    set_up_streams()

    def fail(message: str, code: int) -> int:
        print(f"{name}{place()}: {one_line(message)}", file=sys.stderr)
        return code

    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except FracgenError as error:
        return fail(str(error), error.exit_code)
    except _CommandLineError as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else name
        return fail(f"{error.format_message()} ('{command} --help' lists what there is)", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that nothing is written to it at exit
        return DataError.exit_code
    except (MemoryError, RuntimeError, OSError) as error:
        if (message := explain(error)) is not None:
            return fail(message, DataError.exit_code)
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):
            return fail(f"out of memory; {memory_hint}", DataError.exit_code)
        if not isinstance(error, OSError):
            raise
        file = f"{error.filename}: " if error.filename else ""
        return fail(f"{file}{error.strerror or error}", DataError.exit_code)
    if code == 130:  # typer's word for Ctrl-C
        return fail("interrupted", code)
    return code if isinstance(code, int) else 0


def one_line(text: str) -> str:
    """`text` in one line, with control characters as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split())
    )
