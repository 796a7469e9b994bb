"""Files of weights that any program saved, read without running anything in them."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.engine import checkpoint

ENTRIES = ("model", "state_dict")
"""Entries of a file that are taken without being named."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""What DDP, MPI trainers and torch.compile put before every key."""
_SHOWN = 4
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a pointer of git-LFS, not the file that it stands for; get that by `git lfs pull`",
    b"<!doctype html": "a web page, saved in the place of the file; download it again",
    b"<html": "a web page, saved in the place of the file; download it again",
}
"""By the bytes with which a file begins, in lower case."""
_REFUSED = re.compile(r"(?:GLOBAL |Unsupported class |attempting to (?:build|reduce) .*?type )([\w.]+)")
"""A class that torch does not load, in its message."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file of weights. weights: the state dict that was taken, without what wrappers put before its keys.

    entry: the file's entry that it was, "" where it was all of the file. prefix: what stood before every key. contents:
    all entries of the file by name; none where the state dict was all of it.
    """

    path: Path
    weights: Mapping[str, Tensor]
    entry: str = ""
    prefix: str = ""
    contents: Mapping[str, Any]

    @property
    def description(self) -> str:
        """Where in the file the weights stood, in words; "" where they were all of it, under their own names."""
        entry = f"entry {self.entry!r}" if self.entry else ""
        prefix = f"keys after {self.prefix!r}" if self.prefix else ""
        return ", ".join(filter(None, (entry, prefix)))


def read_weights(path: Path, entry: str = "") -> WeightFile:
    """The weights of a file: .safetensors, or what torch reads with `weights_only`.

    entry: to take; "" for the one that is obvious. Raises UsageError where there is none, with the entries there are.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(64).lstrip().lower()
        if reason := next((reason for start, reason in _NOT_WEIGHTS.items() if begins.startswith(start)), None):
            raise UsageError(f"--checkpoint {path}: {reason}")
        if path.suffix == ".safetensors":
            values: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # published files hold their arguments, too
                values = torch.load(path, map_location="cpu", weights_only=True)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # of pickle, zipfile, torch or safetensors, for bytes that may be anything
        if refused := _REFUSED.search(str(error)):
            raise UsageError(
                f"--checkpoint {path}: holds a {refused[1]}, which is not loaded, as that can run any code; save the "
                "weights alone, by torch.save(model.state_dict(), FILE), where the file is trusted"
            ) from error
        raise UsageError(
            f"--checkpoint {path}: no weights that torch or safetensors can read ({checkpoint.first_line(error)})"
        ) from error
    taken, entry = _choose_entry(values, entry, path)
    weights, prefix = _strip_prefixes({str(key): value for key, value in taken.items()})
    contents = {str(name): value for name, value in values.items()} if entry else {}
    return WeightFile(path=path, weights=weights, entry=entry, prefix=prefix, contents=contents)


def _strip_prefixes(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(the weights by the keys of the network itself, what stood before each of them)."""
    if any(key.removeprefix("module.").startswith("backbone.") for key in weights):  # beside it, heads of pre-training
        weights = {key: value for key, value in weights.items() if not key.removeprefix("module.").startswith("head.")}
    before = ""
    while prefix := next((each for each in _PREFIXES if all(key.startswith(each) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        before += prefix
    return weights, before


def _choose_entry(values: Any, entry: str, path: Path) -> tuple[Mapping[Any, Tensor], str]:
    """(the state dict to take, its entry; "" where it is all of the file)."""
    entries = {str(name): value for name, value in values.items()} if isinstance(values, Mapping) else {}
    state_dicts = [name for name, value in entries.items() if _is_state_dict(value)]
    if entry and entry in state_dicts:
        return entries[entry], entry
    if not entry and _is_state_dict(values):
        return values, ""
    usual = [name for name in ENTRIES if name in state_dicts] or state_dicts
    if not entry and usual and (len(usual) == 1 or usual[0] in ENTRIES):
        return entries[usual[0]], usual[0]
    if state_dicts:
        none = f" {entry!r}" if entry else ", alone or as " + " or ".join(map(repr, ENTRIES))
        names = ", ".join(f"{path}:{name}" for name in state_dicts)
        raise UsageError(f"--checkpoint {path}: no state dict{none}; give one of {names}")
    contents = (
        f"; it holds {shorten([repr(name) for name in entries])}" if entries else f", but a {type(values).__name__}"
    )
    raise UsageError(f"--checkpoint {path}: no state dict, alone or as {' or '.join(map(repr, ENTRIES))}{contents}")


def _is_state_dict(values: Any) -> bool:
    return isinstance(values, Mapping) and bool(values) and all(isinstance(each, Tensor) for each in values.values())


def shorten(keys: Sequence[str]) -> str:
    """The first few of many keys, and how many more there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
