"""Initial weights: of a run of ours, any timm folder or a published checkpoint; or from scratch."""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import read_json
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


def load_init(where: str, settings: Model) -> InitWeights:
    """The initial weights that lie at `where`.

    where: "none", from scratch; the folder of a run (its model/ is taken); a timm folder, of config.json and weights;
    or a file .pth, .pt or .safetensors of a state dict, alone or as the entry "model" or "state_dict", whose
    architecture is what the settings say.
    settings: name "" is the checkpoint's own model, or vit_tiny_patch16_224 where it does not say.
    Raises UsageError where nothing usable is there, or of another model than the settings say.
    """
    model = replace(settings, name=settings.name or DEFAULT_MODEL)
    if where in ("", SCRATCH):
        return InitWeights(name="scratch", model=model)
    path = Path(where)
    if path.is_dir():
        return _load_folder(path, settings)
    if not path.is_file():
        raise UsageError(f"--checkpoint {where}: no such file or folder; 'none' starts from scratch")
    return InitWeights(name=where, model=model, weights=_read(path))


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
        size, mean, std = trained.get("input_size", [3, None])[1], trained.get("mean"), trained.get("std")
        num_classes = int(config["num_classes"])
    except (DataError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
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
        weights=_read(files[0]),
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
