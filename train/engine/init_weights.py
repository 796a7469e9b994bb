"""Initial weights: of a run of ours, any timm folder or a published checkpoint; or from scratch."""

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import ONLY_LOCAL, read_json
from fracgen.shards.urls import is_url
from fracgen.train.engine import checkpoint
from fracgen.train.engine import model as models
from fracgen.train.engine.settings import DEFAULT_MODEL, Model

SCRATCH = "none"
"""The value of --checkpoint that stands for no checkpoint."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ENTRIES = ("model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""What DDP, MPI trainers and torch.compile put before every key."""
_SHOWN = 4

Stats = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class InitWeights:
    """Weights and the architecture that they belong to; from scratch, weights is None.

    name: for the screen. model: name and options of the architecture. size (in pixels), mean and std (of levels in
    [0, 1]), num_classes: those that it was trained with, None where the file does not say.
    """

    name: str
    model: Model
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    size: int | None = None
    mean: Stats | None = None
    std: Stats | None = None
    num_classes: int | None = None

    def fingerprint(self) -> str:
        """sha256 (hex) of the weights, by key; of nothing where there are none."""
        digest = hashlib.sha256()
        for key, value in sorted((self.weights or {}).items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of each key.

    num_classes: outputs of the head. missing: freshly initialised keys. unexpected: keys of the old head, left out.
    resized: keys brought to another resolution. kept_head: whether the head is the checkpoint's. fresh: whether all of
    it is initialised.
    """

    num_classes: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    kept_head: bool = False
    fresh: bool = False

    @property
    def description(self) -> str:
        """One line for the screen."""
        if self.fresh:
            return "all weights new"
        resized = f" ({_shorten(self.resized)} resized)" if self.resized else ""
        if self.kept_head:
            return f"all weights loaded, head kept{resized}"
        return f"head: new ({self.num_classes} classes), all other weights loaded{resized}"


def load_init(source: str, settings: Model) -> InitWeights:
    """The initial weights that `source` names.

    source: "none", from scratch; the folder of a run (its model/ is taken); a timm folder, of config.json and weights;
    or a file .pth, .pt or .safetensors of a state dict, whose architecture is what the settings say. A file of several
    entries gives its "model" or "state_dict", or the only one that is a state dict; FILE:ENTRY is another of them.
    settings: name "" is the checkpoint's own model, or vit_tiny_patch16_224 where it does not say.
    Raises UsageError where nothing usable is there, or of another model than the settings say, and for an init other
    than "default" with a checkpoint.
    """
    model = replace(settings, name=settings.name or DEFAULT_MODEL)
    if source in ("", SCRATCH):
        return InitWeights(name="scratch" if model.init == "default" else model.init, model=model)
    if model.init != "default":
        raise UsageError(
            f"init {model.init}: is for starts from scratch, and --checkpoint {source} is given; leave one of them out"
        )
    if is_url(source):
        raise UsageError(f"--checkpoint {source}: {ONLY_LOCAL}")
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, settings)
    entry = ""
    if not path.is_file() and ":" in source:
        before, _, entry = source.rpartition(":")
        path = Path(before)
    if not path.is_file():
        raise UsageError(f"--checkpoint {source}: no such file or folder; 'none' starts from scratch")
    weights, entry = _read(path, entry)
    return InitWeights(name=f"{path}:{entry}" if entry not in ("", *_ENTRIES) else source, model=model, weights=weights)


def _load_folder(path: Path, settings: Model) -> InitWeights:
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        if (path / checkpoint.LAST).exists():
            raise UsageError(
                f"--checkpoint {path}: a run that has not ended: it has no model/ yet; go on with it first"
            )
        raise UsageError(f"--checkpoint {path}: neither a run of ours nor a timm folder: it has no config.json")
    try:
        config = read_json(folder / "config.json")
        name, trained = config["architecture"], config.get("pretrained_cfg", {})
        options = {key: value for key, value in config.get("model_args", {}).items() if key not in _FROM_DATA}
        mean, std = _read_stats(trained.get("mean")), _read_stats(trained.get("std"))
        size, num_classes = trained.get("input_size", [3, None])[1], int(config["num_classes"])
        if type(name) is not str or type(size) not in (int, type(None)) or (size is not None and size < 1):
            raise ValueError(f"architecture {name!r}, images of size {size!r}")
    except (DataError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UsageError(f"{folder / 'config.json'}: no model of timm's ({error!r})") from error
    if settings.name not in ("", name):
        raise UsageError(f"--model {settings.name}: {path} holds {name}; leave --model out, or give another checkpoint")
    if differing := [key for key, value in settings.options.items() if options.get(key) != value]:
        words = ", ".join(f"{key} {options.get(key)}, not {settings.options[key]}" for key in sorted(differing))
        raise UsageError(f"model.options: {path} was made with {words}; leave them out")
    files = [folder / weights for weights in _WEIGHTS if (folder / weights).is_file()]
    if not files:
        raise UsageError(f"--checkpoint {path}: has no {' or '.join(_WEIGHTS)}")
    return InitWeights(
        name=str(path),
        model=replace(settings, name=name, options=options),
        weights=_read(files[0])[0],
        size=size,
        mean=mean,
        std=std,
        num_classes=num_classes,
    )


_FROM_DATA = ("img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained", "pretrained_cfg")


def _read_stats(values: Any) -> Stats | None:
    """Mean or standard deviation of three channels, None where a file does not say. Raises ValueError, TypeError."""
    if not values:
        return None
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"mean or std {values}")
    return red, green, blue


_NOT_WEIGHTS = {
    b"version https://git-lfs": "a pointer of git-LFS, not the file that it stands for; get that by `git lfs pull`",
    b"<!doctype html": "a web page, saved in the place of the file; download it again",
    b"<html": "a web page, saved in the place of the file; download it again",
}
"""By the bytes with which a file begins, in lower case."""
_REFUSED = re.compile(r"(?:GLOBAL |Unsupported class |attempting to (?:build|reduce) .*?type )([\w.]+)")
"""A class that torch does not load, in its message."""


def _read(path: Path, entry: str = "") -> tuple[dict[str, Tensor], str]:
    """(a state dict without what wrappers put before its keys, the entry of the file that it was).

    entry: to take; "" for the one that is obvious. Raises UsageError where there is none, with the entries there are.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(64).lstrip().lower()
        if reason := next((reason for start, reason in _NOT_WEIGHTS.items() if begins.startswith(start)), None):
            raise UsageError(f"--checkpoint {path}: {reason}")
        if path.suffix == ".safetensors":
            return load_file(path), ""
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
    values, entry = _choose_entry(values, entry, path)
    weights = {str(key): value for key, value in values.items()}
    if any(key.removeprefix("module.").startswith("backbone.") for key in weights):  # beside it, heads of pre-training
        weights = {key: value for key, value in weights.items() if not key.removeprefix("module.").startswith("head.")}
    while prefix := next((each for each in _PREFIXES if all(key.startswith(each) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights, entry


def _choose_entry(values: Any, entry: str, path: Path) -> tuple[Mapping[Any, Tensor], str]:
    """(the state dict to take, its entry; "" where it is all of the file)."""
    entries = {str(name): value for name, value in values.items()} if isinstance(values, Mapping) else {}
    state_dicts = [name for name, value in entries.items() if _is_state_dict(value)]
    if entry and entry in state_dicts:
        return entries[entry], entry
    if not entry and _is_state_dict(values):
        return values, ""
    usual = [name for name in _ENTRIES if name in state_dicts] or state_dicts
    if not entry and usual and (len(usual) == 1 or usual[0] in _ENTRIES):
        return entries[usual[0]], usual[0]
    if state_dicts:
        none = f" {entry!r}" if entry else ", alone or as " + " or ".join(map(repr, _ENTRIES))
        names = ", ".join(f"{path}:{name}" for name in state_dicts)
        raise UsageError(f"--checkpoint {path}: no state dict{none}; give one of {names}")
    contents = (
        f"; it holds {_shorten([repr(name) for name in entries])}" if entries else f", but a {type(values).__name__}"
    )
    raise UsageError(f"--checkpoint {path}: no state dict, alone or as {' or '.join(map(repr, _ENTRIES))}{contents}")


def _is_state_dict(values: Any) -> bool:
    return isinstance(values, Mapping) and bool(values) and all(isinstance(each, Tensor) for each in values.values())


def build(init: InitWeights, *, num_classes: int, size: int, keep_head: bool = False) -> tuple[nn.Module, Loaded]:
    """The model for `num_classes` and images of `size` pixels, on the CPU, with the initial weights.

    Position embeddings are resampled to the size as timm does. The head alone is freshly initialised (from torch's
    global generator), unless `keep_head` and it fits: the published loader's habit.
    Raises UsageError for weights of another architecture, with the keys.
    """
    model = models.create(init.model, num_classes=num_classes, size=size)
    own = model.state_dict()
    if init.weights is None:
        return model, Loaded(num_classes=num_classes, missing=tuple(own), fresh=True)
    heads = tuple(f"{name}." for name in _head_names(model))
    head = [key for key in own if key.startswith(heads)]
    original = dict(init.weights)
    weights = _fit_to_model(original, model)
    kept = keep_head and all(key in weights and weights[key].shape == own[key].shape for key in head)
    old_head = () if kept else tuple(key for key in weights if key.startswith(heads))
    weights = {key: value for key, value in weights.items() if key not in old_head}
    faults = {
        "missing": sorted(set(own) - set(weights) - (set() if kept else set(head))),
        "unexpected": sorted(set(weights) - set(own)),
        "of another shape": [key for key in sorted(set(weights) & set(own)) if weights[key].shape != own[key].shape],
    }
    if any(faults.values()):
        words = "; ".join(f"{fault} {_shorten(keys)}" for fault, keys in faults.items() if keys)
        raise UsageError(f"{init.name}: weights of another architecture than {init.model.name}: {words}")
    model.load_state_dict({**own, **weights})
    return model, Loaded(
        num_classes=num_classes,
        missing=() if kept else tuple(sorted(head)),
        unexpected=tuple(sorted(old_head)),
        resized=tuple(key for key in weights if key in original and original[key].shape != weights[key].shape),
        kept_head=kept,
    )


def check(init: InitWeights, *, size: int) -> None:
    """Raise what `build` would for images of `size` pixels."""
    if init.weights is not None:
        build(init, num_classes=init.num_classes or 1, size=size)
    models.check(init.model, size=size)


def _head_names(model: nn.Module) -> tuple[str, ...]:
    config: Any = model.pretrained_cfg
    classifier = config.get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _fit_to_model(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Pass weights through timm's own filter for this family of models, which resamples position embeddings."""
    checkpoint_filter: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if checkpoint_filter is None:
        return weights
    try:
        fitted: dict[str, Tensor] = checkpoint_filter(dict(weights), model)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, AssertionError):
        return weights  # of another architecture, whose keys `build` names
    return fitted


def _shorten(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
