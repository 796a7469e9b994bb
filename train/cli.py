"""Command lines of training: errors as one line and an exit code, rows on stderr, the result on stdout."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from fracgen.shards import commandline
from fracgen.shards.errors import FracgenError

_MEMORY_HINT = "lower --batch-size, or give --loader stream"


class StopError(FracgenError):
    """A signal stopped the run, whose checkpoint is written."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def app() -> typer.Typer:
    """A command line of one command, which a function becomes by `@app.command()`."""
    return commandline.new_app()


def run(application: typer.Typer, name: str, argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code: 0, 1 for data, 2 for usage, 128 + signal when interrupted.

    Usage and errors begin with `name`, or with "fracgen " and the name where that command was typed.
    """
    program = Path(sys.argv[0])
    if program.stem == "fracgen" or program.parts[-2:] == ("fracgen", "__main__.py"):
        name = f"fracgen {name}"
    return commandline.main(application, name, argv, explain=_explain, memory_hint=_MEMORY_HINT, process_name=_rank)


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _rank() -> str:
    return f" (rank {os.environ.get('RANK', '0')})" if _is_one_of_several() else ""


def _explain(error: Exception) -> str | None:
    """What torch raises as RuntimeError: memory that is short, and ranks that are gone."""
    text = str(error)
    if isinstance(error, RuntimeError):
        if _is_one_of_several() and re.search("gloo|nccl|peer|connection", text, re.IGNORECASE):
            return "another process of this run has gone"
        if "out of memory" in text or "can't allocate memory" in text:
            return f"{text.splitlines()[0]}; {_MEMORY_HINT}"
    return None


def say(rows: Mapping[str, str]) -> None:
    """Print rows of a name and a text on stderr."""
    for name, text in rows.items():
        print(f"{name:<9} {commandline.one_line(text)}", file=sys.stderr, flush=True)


def bar(doing: str) -> Callable[[int, int], None]:
    """A progress bar on stderr for (done, of all); nothing where stderr is no terminal."""
    from tqdm import tqdm

    shown = tqdm(desc=doing, disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, of_all: int) -> None:
        if shown.total != of_all:
            shown.total = of_all
            shown.refresh()
        shown.update(done - shown.n)
        if done >= of_all:
            shown.close()

    return show


def result(values: Mapping[str, Any], *, as_json: bool, labels: Mapping[str, str] | None = None) -> None:
    """Print the result on stdout: an aligned block, or JSON. labels: of names that the block spells otherwise."""
    if as_json:
        print(json.dumps(values))
        return
    rows = {(labels or {}).get(name, name.replace("_", " ")): value for name, value in values.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {f'{value:,}' if isinstance(value, int) else commandline.one_line(str(value))}")
