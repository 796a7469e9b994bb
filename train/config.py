"""Settings of a run, composed: a protocol's defaults, a YAML file, options, overrides, and what the run began with."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import load_settings, parse_yaml, read_text

S = TypeVar("S")
T = TypeVar("T")

_LENGTHS = ("schedule.steps", "schedule.samples", "schedule.epochs")
_OLD_NAMES = {"feed.mode": "loader.mode", "feed": "loader"}
"""Names of fracgen 0.2."""


def load(kind: type[T], path: str | None, options: Mapping[str, Any], overrides: Sequence[str] | None = None) -> T:
    """Settings from their defaults, a YAML file, options by dotted name, then overrides "dotted.name=value".

    A length in one unit takes the place of what the file gives in another.
    Raises UsageError with the option, file, key and value; for names of fracgen 0.2, with the new name.
    """
    overrides, options = list(overrides or []), dict(options)
    for override in overrides:
        if "=" not in override and Path(override).exists():
            raise UsageError(
                f"{override}: a word too many; if it is of a pattern that the shell has expanded, quote the pattern, "
                f"as in --shards '{Path(override).parent / '*.tar'}'"
            )
        _refuse_old_name(override.partition("=")[0], override)
    if path is not None:
        values = parse_yaml(read_text(path), path)
        for name in values if isinstance(values, Mapping) else ():
            _refuse_old_name(str(name), path)
    lengths = [name for name in _LENGTHS if name in options]
    if len(lengths) > 1:
        raise UsageError("--steps, --samples, --epochs: give one of them")
    for name in lengths:
        if not 0 < options[name] < float("inf"):
            raise UsageError(f"--{name.removeprefix('schedule.')} {options[name]}: must be more than 0, and finite")
    if lengths or any(override.startswith(tuple(f"{name}=" for name in _LENGTHS)) for override in overrides):
        options = {"schedule.steps": 0, "schedule.samples": 0, "schedule.epochs": 0.0, **options}
    return load_settings(kind, path, options, overrides)


def _refuse_old_name(name: str, source: str) -> None:
    for old, new in _OLD_NAMES.items():
        if name == old or name.startswith(f"{old}."):
            raise UsageError(f"{source}: {name} is {new}{name.removeprefix(old)} now")


def continue_as_begun(settings: S, begun: Mapping[str, Any]) -> S:
    """Settings whose `auto` of loader.mode and run.precision is replaced by what the run began with.

    begun: plain values of the resolved settings, if need be of another program, whose run is refused once all that
    differs is known.
    """
    groups: Any = settings
    loader, run = groups.loader, groups.run
    if getattr(loader, "mode", "") == "auto":
        loader = dataclasses.replace(loader, mode=begun["loader"].get("mode", loader.mode))
    if run.precision == "auto":
        run = dataclasses.replace(run, precision=begun["run"]["precision"])
    changed: S = dataclasses.replace(groups, loader=loader, run=run)
    return changed
