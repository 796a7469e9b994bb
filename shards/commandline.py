"""Command lines made of settings: an option for each field, grouped help, lazy commands, one line for each error."""

import _thread
import contextlib
import errno
import importlib
import logging
import os
import re
import sys
import threading
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.errors import one_line as one_line
from fracgen.shards.options import help_record, read_plainly
from fracgen.shards.options import options_from as options_from
from fracgen.shards.urls import redact

_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's base of all errors in the words of a command line; typer brings its own click, or not, by version."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 1000}
"""Help is as wide as the terminal."""
OVERRIDES = "[NAME=VALUE]..."
"""How help writes the argument that takes any setting by its name."""
_MAX_NAME = 28
"""Longer names of options have a line of their own."""
INTERRUPTED = 130
_SECONDS_TO_DESTROY = 0.01
"""After a Ctrl-C that Python dropped: time for the object that it came in to be gone."""
_OUT_OF_MEMORY = "out of memory"
_SHORT_OF_MEMORY = re.compile("can't start new thread|[Cc]annot allocate memory|failed to map segment")
"""Messages of Python, of the system, and of its loader of libraries."""


class Command(TyperCommand):
    """A command whose help has a section for each panel of options, and whose values are read by `settings`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Arguments and options."""
        return read_plainly(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The names behind the command's in the line of its usage, without the braces that typer puts around some."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then a section for each panel in the order of the options, those of no panel last."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            record = help_record(param, ctx)
            if record is not None:
                other = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or other, []).append(record)
        sections["Options"] = sections.pop("Options", [])
        _write_sections(formatter, sections)


class LazyCommand(typing.NamedTuple):
    """Where a command lies, and what the help says of it before it is imported.

    target: "module:name" of a function or of a typer application. summary: the first paragraph of its docstring.
    argument: of a target that makes the command when it is called with this; such a command has the summary alone.
    """

    target: str
    summary: str
    panel: str = "Commands"
    argument: str = ""

    def load(self) -> Any:
        """Import the command."""
        module, _, name = self.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        if self.argument:
            command = command(self.argument)
            command.__doc__ = self.summary
        return typer.main.get_command(command if isinstance(command, typer.Typer) else command_app(command))


class LazyGroup(TyperGroup):
    """A group of commands that are imported when they run; see `lazy_group`."""

    lazy: Mapping[str, LazyCommand] = types.MappingProxyType({})

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options."""
        return read_plainly(super().get_params(ctx))

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
        records = (help_record(param, ctx) for param in self.get_params(ctx))
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


def _write_sections(formatter: Any, sections: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write titled lists whose second columns begin at one place."""
    width = max((len(name) for rows in sections.values() for name, _ in rows if len(name) <= _MAX_NAME), default=0)
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows], col_max=width)


def set_up_streams() -> None:
    """Give stdout and stderr a place where the caller closed them, and letters that they lack as escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  it stays open
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


_format_other_warning = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Our own warnings are a line, without the place in the source; others' show no secrets of URLs either."""
    if category.__module__.startswith("fracgen."):
        return f"{one_line(str(message))}\n"
    return redact(_format_other_warning(message, category, filename, lineno, line))


class _LogFormatter(logging.Formatter):
    """What libraries log and nobody has set up logs for, tracebacks too: on stderr, without secrets of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as text."""
        return redact(super().format(record))


def main(
    app: typer.Typer,
    name: str,
    arguments: Sequence[str],
    *,
    explain: Callable[[Exception], str | None] = lambda error: None,
    memory_hint: str = "lower --size, --points or --workers",
    process_name: Callable[[], str] = lambda: "",
) -> int:
    """Run a command line; returns the exit code. What a user can mend becomes one line on stderr.

    0: good; 1: data, memory, disk; 2: usage; 130: interrupted. explain: the line for an error that only this program
    knows, or None. process_name: which of several processes speaks, as in " (rank 1)".
    """
    set_up_streams()
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_LogFormatter())
    lost = _LostInterrupts()
    sys.unraisablehook = lost.hook

    def fail(message: str, code: int) -> int:
        if code == INTERRUPTED and not _can_start_thread():  # OpenBLAS, for one, sends SIGINT where it cannot
            message, code = f"{_OUT_OF_MEMORY}; {memory_hint}", DataError.exit_code
        print(f"{name}{process_name()}: {one_line(message)}", file=sys.stderr)
        return code

    try:
        with lost:
            code = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except FracgenError as error:
        return fail(str(error), error.exit_code)
    except _CommandLineError as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else name
        hint = f"'{command} --help' lists what there is"
        if hasattr(error, "option_name") and any(each.metavar == OVERRIDES for each in error.ctx.command.params):
            hint += "; settings that have no option are given as NAME=VALUE"
        return fail(f"{error.format_message()} ({hint})", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that nothing is written to it at exit
        return DataError.exit_code
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if (message := explain(error)) is not None:
            return fail(message, DataError.exit_code)
        if is_out_of_memory(error):
            return fail(f"{_OUT_OF_MEMORY}; {memory_hint}", DataError.exit_code)
        if not isinstance(error, OSError):
            raise
        file = f"{error.filename}: " if error.filename else ""
        return fail(f"{file}{error.strerror or error}", DataError.exit_code)
    if code == INTERRUPTED:  # typer's word for Ctrl-C
        return fail("interrupted", code)
    return code if isinstance(code, int) else 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or what else a thread needs, is short; libraries that cannot load do too."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, MemoryError) or _SHORT_OF_MEMORY.search(str(error)):
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or (cause is not None and is_out_of_memory(cause))


def _can_start_thread() -> bool:
    try:
        thread = threading.Thread(target=lambda: None)
        thread.start()
    except (RuntimeError, MemoryError):
        return False
    thread.join()
    return True


class _LostInterrupts:
    """Raises again, in the main thread, a Ctrl-C that came while an object was being destroyed: Python drops those.

    As a context: around what they may stop. Once it is left, nothing more is raised, and nothing is said of them: a
    command that an earlier Ctrl-C has stopped says so once.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._is_open = False

    def __enter__(self) -> None:
        self._is_open = True

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def hook(self, unraisable: Any) -> None:
        """The process's `sys.unraisablehook`."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
        elif self._is_open:
            with contextlib.suppress(RuntimeError, MemoryError):  # no thread is to be had
                while not self._start_timer():
                    pass

    def _start_timer(self) -> bool:
        """Whether it was started before it went off: an interrupt within the hook would be dropped as well."""
        timer = threading.Timer(_SECONDS_TO_DESTROY, _thread.interrupt_main)
        timer.daemon = True
        try:
            timer.start()  # waits for its thread, on a busy machine for longer than the thread waits
            self._timer = timer
        except KeyboardInterrupt:
            return False
        return True
