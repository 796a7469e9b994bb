"""Initial weights: of a run of ours, any timm folder or a published checkpoint; or from scratch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import ONLY_LOCAL, read_json
from fracgen.shards.settings import nearest
from fracgen.shards.urls import is_url
from fracgen.train.engine import checkpoint
from fracgen.train.engine.model import Stats
from fracgen.train.engine.provenance import FINE_TUNED, OPEN_LICENCE, SECTION
from fracgen.train.engine.published import format_stats, identify, read_stats
from fracgen.train.engine.settings import DEFAULT_MODEL, SCRATCH, TIMM, Model
from fracgen.train.engine.weight_files import ENTRIES, read_weights, shorten

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SAME = 5e-3
"""Means and standard deviations that differ by less are the same: 0.485 and 0.49."""


@dataclass(frozen=True, kw_only=True)
class InitWeights:
    """Weights and the architecture that they belong to; from scratch, weights is None.

    name: for the screen. model: name and options of the architecture. size (in pixels), mean and std (of levels in
    [0, 1]), num_classes: those that it was trained with, None where nothing tells them. origin: what the checkpoint
    tells of itself, and how that is known, for the screen. modules: the parts of the model that the weights are of, as
    those of a warm-up without images; () for all. from_formula: whether runs of ours made
    them, on nothing but what formulas make.
    """

    name: str
    model: Model
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    size: int | None = None
    mean: Stats | None = None
    std: Stats | None = None
    num_classes: int | None = None
    origin: str = ""
    modules: tuple[str, ...] = ()
    from_formula: bool = False

    def holds(self, key: str) -> bool:
        """Whether the weights are of the part of the model that a key belongs to."""
        return not self.modules or key.partition(".")[0] in self.modules

    def normalisation_warning(self, mean: Stats, std: Stats) -> str:
        """One line where images are about to be normalised by other numbers than in pre-training; else nothing.

        Nothing either for what we trained on formulas alone: the published recipe pre-trains on 1p-frac with mean and
        std of 0.5, and fine-tunes with ImageNet's.
        """
        if self.mean is None or self.std is None or self.from_formula:
            return ""
        pairs = zip((*self.mean, *self.std), (*mean, *std), strict=True)
        if all(abs(trained - given) < _SAME for trained, given in pairs):
            return ""
        return (
            f"{self.name} was trained with {format_stats(self.mean, self.std)}, and is fine-tuned with "
            f"{format_stats(mean, std)}; 'augment.mean={list(self.mean)}' 'augment.std={list(self.std)}' keep the "
            "checkpoint's"
        )

    @property
    def base(self) -> str:
        """What a run began with, in words for its card."""
        return self.name if self.model.init == "default" else f"scratch, {self.name} init"

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 of the weights, as of `fingerprint`; "" from scratch."""
        return "" if self.weights is None else self.fingerprint()

    def fingerprint(self) -> str:
        """sha256 (hex) of the weights, by key; of nothing where there are none."""
        digest = hashlib.sha256()
        for key, value in sorted((self.weights or {}).items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load_init(source: str, settings: Model) -> InitWeights:
    """The initial weights that `source` names.

    source: "none", from scratch; the folder of a run (its model/ is taken); a timm folder, of config.json and weights;
    "timm:NAME", weights that timm downloads, or has in the Hugging Face Hub's cache; or a file .pth, .pt, .tar or
    .safetensors of a state dict. A file of several entries gives its "model" or "state_dict", or the only one that is a
    state dict; FILE:ENTRY is another of them. What the file tells of its model, mean and std is `published.py`'s.
    settings: name "" is the checkpoint's own model, or vit_tiny_patch16_224 where it does not say.
    Raises UsageError where nothing usable is there, or of another model than the settings say, and for an init other
    than "default" with a checkpoint.
    """
    model = replace(settings, name=settings.name or DEFAULT_MODEL)
    if source in ("", SCRATCH):
        name = "scratch" if model.init == "default" else model.init
        return InitWeights(name=name, model=model, from_formula=True)
    if model.init != "default":
        raise UsageError(
            f"init {model.init}: is for starts from scratch, and --checkpoint {source} is given; leave one of them out"
        )
    if is_url(source):
        raise UsageError(f"--checkpoint {source}: {ONLY_LOCAL}")
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, settings)
    if source.startswith(TIMM) and not path.is_file():
        return _load_timm(source, settings)
    entry = ""
    if not path.is_file() and ":" in source:
        before, _, entry = source.rpartition(":")
        path = Path(before)
    if not path.is_file():
        raise UsageError(f"--checkpoint {source}: no such file or folder; 'none' starts from scratch")
    file = read_weights(path, entry)
    origin = identify(file)
    model = replace(settings, name=settings.name or origin.model or DEFAULT_MODEL)
    by = f"{origin.model} by {origin.model_source}" if origin.model and not settings.name else ""
    return InitWeights(
        name=f"{path}:{file.entry}" if file.entry not in ("", *ENTRIES) else source,
        model=model,
        weights=file.weights,
        size=origin.size,
        mean=origin.mean,
        std=origin.std,
        num_classes=origin.num_classes,
        origin=_origin(file.description, by, origin.num_classes, origin.mean, origin.std, source=origin.stats_source),
    )


def _origin(
    where: str, model: str, num_classes: int | None, mean: Stats | None, std: Stats | None, *, source: str = ""
) -> str:
    """What a checkpoint tells of itself, in a line. source: how mean and std are known."""
    head = f"head of {num_classes:,} classes" if num_classes else ""
    stats = f"{format_stats(mean, std)} ({source})" if source else format_stats(mean, std)
    return "; ".join(filter(None, (where, model, head, stats)))


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
        mean, std = read_stats(trained.get("mean")), read_stats(trained.get("std"))
        size, num_classes = trained.get("input_size", [3, None])[1], int(config["num_classes"])
        section = config.get(SECTION, {})
        modules = tuple(map(str, section.get("modules", ())))
        from_formula = section.get("stage") != FINE_TUNED and section.get("licence") == OPEN_LICENCE
        if type(name) is not str or type(size) not in (int, type(None)) or (size is not None and size < 1):
            raise ValueError(f"architecture {name!r}, images of size {size!r}")
    except (DataError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UsageError(f"{folder / 'config.json'}: no model of timm's ({error!r})") from error
    if settings.name not in ("", name):
        raise UsageError(f"--model {settings.name}: {path} holds {name}; leave --model out, or give another checkpoint")
    if modules:  # patches and positions are new, and may be others; no image was seen
        options, mean, std = {**options, **settings.options}, None, None
    if differing := [key for key, value in settings.options.items() if options.get(key) != value]:
        words = ", ".join(f"{key} {options.get(key)}, not {settings.options[key]}" for key in sorted(differing))
        raise UsageError(f"model.options: {path} was made with {words}; leave them out")
    files = [folder / weights for weights in _WEIGHTS if (folder / weights).is_file()]
    if not files:
        raise UsageError(f"--checkpoint {path}: has no {' or '.join(_WEIGHTS)}")
    init = InitWeights(
        name=str(path),
        model=replace(settings, name=name, options=options),
        size=size,
        mean=mean,
        std=std,
        num_classes=num_classes,
        origin=_origin("", name, num_classes, mean, std),
        modules=modules,
        from_formula=from_formula,
    )
    return replace(init, weights={key: each for key, each in read_weights(files[0]).weights.items() if init.holds(key)})


_FROM_DATA = ("img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained", "pretrained_cfg")


def _load_timm(source: str, settings: Model) -> InitWeights:
    """Weights that timm knows by a name, as in timm:vit_tiny_patch16_224.augreg_in21k: cached, or downloaded."""
    name = source.removeprefix(TIMM)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise UsageError(f"--checkpoint {source}: timm {timm.__version__} has no model {architecture!r}{hint}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if not tags or name not in (architecture, *tags):
        others = f"; give one of {shorten([f'{TIMM}{tag}' for tag in tags])}" if tags else ""
        raise UsageError(f"--checkpoint {source}: timm {timm.__version__} has no such weights{others}")
    if settings.name not in ("", architecture):
        raise UsageError(f"--model {settings.name}: {source} is {architecture}; leave --model out")
    if settings.options:
        raise UsageError(f"model.options: {source} is as timm makes it; leave out {', '.join(settings.options)}")
    config: Any = timm.models.get_pretrained_cfg(name)
    cached = try_to_load_from_cache(config.hf_hub_id or "none", _WEIGHTS[0])
    overlay = {"file": cached, "custom_load": False} if isinstance(cached, str) else None  # without a look at the net
    try:
        network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # of the Hub's client, of the net, of files in the cache: each has errors of its own
        if isinstance(error, MemoryError):
            raise
        raise UsageError(
            f"--checkpoint {source}: cannot be had from the Hub or its cache "
            f"({type(error).__name__}: {checkpoint.first_line(error)}); on a machine with a net, "
            f"`hf download timm/{tags[0] if name == architecture else name} --local-dir FOLDER`, and give --checkpoint "
            "FOLDER here"
        ) from error
    return InitWeights(
        name=source,
        model=replace(settings, name=architecture),
        weights=network.state_dict(),
        size=config.input_size[1],
        mean=config.mean,
        std=config.std,
        num_classes=config.num_classes,
        origin=_origin("", "", config.num_classes, config.mean, config.std, source="timm's own"),
    )
