"""The command lines of training: what a user can mend becomes one line and an exit code."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from fracgen.shards.errors import DataError, FracgenError, UsageError

_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's base of all errors in the words of a command line; typer brings its own click, or not, by version."""


class StopError(FracgenError):
    """A signal stopped the run, and its checkpoint is written."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def app() -> typer.Typer:
    """A command line of one command."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(application: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code: 0, 1 for data, 2 for usage, 128 + signal when interrupted."""
    try:
        code = application(list(arguments), prog_name=name, standalone_mode=False)
    except FracgenError as error:
        return _fail(name, str(error), error.exit_code)
    except _CommandLineError as error:
        return _fail(name, f"{error.format_message()} ('{name} --help' lists what there is)", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(name, "interrupted", 130)
    except MemoryError:
        return _fail(name, "out of memory; lower --batch-size, or give feed.mode=stream", DataError.exit_code)
    except RuntimeError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and re.search("gloo|nccl|peer|connection", str(error), re.I):
            return _fail(name, "another process of this run has gone", DataError.exit_code)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return _fail(
            name, f"{str(error).splitlines()[0]} Lower --batch-size, or give feed.mode=stream", DataError.exit_code
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(name, f"{where}{error.strerror or error}", DataError.exit_code)
    if code == 130:  # typer's word for Ctrl-C
        return _fail(name, "interrupted", code)
    return code if isinstance(code, int) else 0


def _fail(name: str, message: str, code: int) -> int:
    rank = f" (rank {os.environ.get('RANK', '0')})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{name}{rank}: {' '.join(message.split())}", file=sys.stderr)
    return code


def say(rows: Mapping[str, str]) -> None:
    """What is going to happen, on stderr: a line for each word."""
    for name, text in rows.items():
        print(f"{name:<9} {text}", file=sys.stderr, flush=True)


def bar(doing: str) -> Callable[[int, int], None]:
    """A progress bar on stderr for (done, of all); nothing where stderr is no terminal."""
    from tqdm import tqdm

    shown = tqdm(desc=doing, disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, of_all: int) -> None:
        shown.total = of_all
        shown.update(done - shown.n)
        if done >= of_all:
            shown.close()

    return show


def result(values: Mapping[str, Any], *, as_json: bool) -> None:
    """What came out, on stdout: an aligned block, or JSON."""
    if as_json:
        print(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) else value}")
