"""What a net begins with: a run of ours, any timm folder, a published checkpoint, or nothing."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.config import Model
from fracgen.train.engine import checkpoint
from fracgen.train.engine import model as models

SCRATCH = "none"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ENTRIES = ("model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""What DDP, MPI trainers and torch.compile put before every key."""
_SHOWN = 4

Stats = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights and the architecture that they belong to; from scratch, weights is None.

    model: name and options of the architecture. size: pixels, mean, std: of levels in [0, 1], num_classes: those that
    it was trained with, None where the file does not say.
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
        found = hashlib.sha256()
        for key, value in sorted((self.weights or {}).items()):
            found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of each key. missing: freshly initialised. unexpected: left out, being of the old head.

    resized: brought to another resolution. kept_head: whether the head is the checkpoint's.
    fresh: whether there was none.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    kept_head: bool = False
    fresh: bool = False

    @property
    def description(self) -> str:
        """One line for the screen."""
        if self.fresh:
            return "all of it fresh"
        head = "head kept" if self.kept_head else f"missing {_few(self.missing)}, unexpected {_few(self.unexpected)}"
        return head + (f", resized {_few(self.resized)}" if self.resized else "")


def open_start(where: str, settings: Model) -> Start:
    """What lies at `where`.

    where: "none"; the folder of a run (its model/ is taken); a timm folder, of config.json and weights; or a file
    .pth, .pt or .safetensors of a state dict, alone or as the entry "model" or "state_dict", whose architecture is what
    the settings say.
    settings: name "" is the checkpoint's own model, or vit_tiny_patch16_224 where it does not say.
    Raises UsageError where nothing usable is there, or of another model than the settings say.
    """
    asked = replace(settings, name=settings.name or Model().name)
    if where in ("", SCRATCH):
        return Start(name="scratch", model=asked)
    path = Path(where)
    if path.is_dir():
        return _open_folder(path, settings)
    if not path.is_file():
        raise UsageError(f"--checkpoint {where}: no such file or folder; 'none' starts from scratch")
    return Start(name=where, model=asked, weights=_read(path))


def _open_folder(path: Path, settings: Model) -> Start:
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        if (path / checkpoint.LAST).exists():
            raise UsageError(
                f"--checkpoint {path}: a run that has not ended: it has no model/ yet; go on with it first"
            )
        raise UsageError(f"--checkpoint {path}: neither a run of ours nor a timm folder: it has no config.json")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        name, about = config["architecture"], config.get("pretrained_cfg", {})
        options = {key: value for key, value in config.get("model_args", {}).items() if key not in _FROM_DATA}
        size, mean, std = about.get("input_size", [3, None])[1], about.get("mean"), about.get("std")
        num_classes = int(config["num_classes"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{folder / 'config.json'}: no model of timm's ({error!r})") from error
    if settings.name not in ("", name):
        raise UsageError(f"--model {settings.name}: {path} holds {name}; leave --model out, or give another checkpoint")
    if differing := [key for key, value in settings.options.items() if options.get(key) != value]:
        told = ", ".join(f"{key} {options.get(key)}, not {settings.options[key]}" for key in sorted(differing))
        raise UsageError(f"model.options: {path} was made with {told}; leave them out")
    found = [folder / weights for weights in _WEIGHTS if (folder / weights).is_file()]
    if not found:
        raise UsageError(f"--checkpoint {path}: has no {' or '.join(_WEIGHTS)}")
    return Start(
        name=str(path),
        model=replace(settings, name=name, options=options),
        weights=_read(found[0]),
        size=size,
        mean=tuple(mean) if mean else None,
        std=tuple(std) if std else None,
        num_classes=num_classes,
    )


_FROM_DATA = ("img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained", "pretrained_cfg")


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict without what wrappers put before its keys."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # published files hold their arguments, too
            values = torch.load(path, map_location="cpu", weights_only=True)
    except (*checkpoint.DAMAGE, SafetensorError) as error:
        first = str(error).splitlines()[0] if str(error) else repr(error)
        raise UsageError(
            f"--checkpoint {path}: no weights that torch or safetensors can read ({type(error).__name__}: {first})"
        ) from error
    if isinstance(values, Mapping):
        values = next((values[entry] for entry in _ENTRIES if isinstance(values.get(entry), Mapping)), values)
    if not isinstance(values, Mapping) or not values or not all(isinstance(each, Tensor) for each in values.values()):
        raise UsageError(f"--checkpoint {path}: no state dict, alone or as {' or '.join(map(repr, _ENTRIES))}")
    weights = {str(key): value for key, value in values.items()}
    while prefix := next((each for each in _PREFIXES if all(key.startswith(each) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def build(start: Start, *, num_classes: int, size: int, keep_head: bool = False) -> tuple[nn.Module, Loaded]:
    """The model for `num_classes` and images of `size` pixels, on the CPU, with the weights of the start.

    Position embeddings are resampled to the size as timm does. The head alone is freshly initialised (from torch's
    global generator), unless `keep_head` and it fits: the published loader's habit.
    Raises UsageError for weights of another architecture, with the keys.
    """
    made = models.create(start.model, num_classes=num_classes, size=size)
    own = made.state_dict()
    head = [key for name in _head_names(made) for key in own if key.startswith(f"{name}.")]
    if start.weights is None:
        return made, Loaded(missing=tuple(own), fresh=True)
    given = dict(start.weights)
    weights = _to_model(given, made)
    kept = keep_head and all(key in weights and weights[key].shape == own[key].shape for key in head)
    old = () if kept else tuple(key for key in weights if key.startswith(tuple(f"{n}." for n in _head_names(made))))
    weights = {key: value for key, value in weights.items() if key not in old}
    missing = sorted(set(own) - set(weights) - (set() if kept else set(head)))
    unexpected = sorted(set(weights) - set(own))
    shapes = [key for key in sorted(set(weights) & set(own)) if weights[key].shape != own[key].shape]
    if missing or unexpected or shapes:
        faults = [
            f"{word} {_few(keys)}"
            for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if keys
        ]
        raise UsageError(f"{start.name}: weights of another architecture than {start.model.name}: {'; '.join(faults)}")
    made.load_state_dict({**own, **weights})
    resized = tuple(key for key in weights if key in given and given[key].shape != weights[key].shape)
    return made, Loaded(
        missing=() if kept else tuple(sorted(head)), unexpected=tuple(sorted(old)), resized=resized, kept_head=kept
    )


def _head_names(made: nn.Module) -> tuple[str, ...]:
    about: Any = made.pretrained_cfg
    classifier = about.get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _to_model(weights: dict[str, Tensor], made: nn.Module) -> dict[str, Tensor]:
    """By timm's own filter for this family of models, which resamples position embeddings and tables."""
    fit: Any = getattr(sys.modules[type(made).__module__], "checkpoint_filter_fn", None)
    if fit is None:
        return weights
    try:
        fitted: dict[str, Tensor] = fit(dict(weights), made)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, AssertionError):
        return weights  # of another architecture, whose keys are told by the caller
    return fitted


def _few(keys: tuple[str, ...] | list[str]) -> str:
    if not keys:
        return "none"
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
