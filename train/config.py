"""What a run is: every number that can change a weight, from defaults, a YAML file and the command line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import from_plain, parse_yaml, read_text
from fracgen.train.augment.draws import RandAugment
from fracgen.train.seeding import MAX_SEED

S = TypeVar("S")
T = TypeVar("T")

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
FeedMode = Literal["auto", "resident", "stream"]
Where = Literal["device", "timm"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A timm classification model. options: further arguments of `timm.create_model`, such as patch_size or depth."""

    name: str = "vit_tiny_patch16_224"
    drop_path: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """A timm optimiser. lr: for a batch of 512; what is used is lr x batch size / 512. clip: of the gradients' norm."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    clip: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, in one of three units, and a cosine after a linear warm-up. The rates are scaled as `Optim.lr`.

    warmup_steps: at most 5 % of the run are taken. warmup_epochs: the same in epochs, in its place where above 0.
    """

    steps: int = 0
    samples: int = 0
    epochs: float = 0.0
    warmup_steps: int = 5000
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Every number that changes a pixel, with the published pre-training defaults.

    In order: RandomResizedCrop to `size`, flips, RandAugment or (only where that is '') colour jitter, normalisation
    by mean and std of levels in [0, 1], random erasing by N(0, 1) noise. Raises UsageError for a RandAugment that we do
    not have.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.5
    rand_augment: str = "rand-m9-n2-mstd0.5-inc1"
    color_jitter: float = 0.4
    erase: float = 0.5
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UsageError(f"crops of size {self.size}, scale {self.scale}, ratio {self.ratio}: give (least, most)")
        for name in ("hflip", "vflip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} {getattr(self, name)}: give a probability, 0 to 1")
        if self.color_jitter < 0 or min(self.std) <= 0:
            raise UsageError(f"color_jitter {self.color_jitter}, std {self.std}: give no less than 0, and more than 0")
        _ = self.rule

    @property
    def rule(self) -> RandAugment | None:
        """RandAugment's numbers, None where it is off."""
        return RandAugment.parse(self.rand_augment) if self.rand_augment else None

    @property
    def fill(self) -> tuple[int, ...]:
        """What comes into view from outside: the mean, as timm rounds it, 0 to 255."""
        return tuple(min(255, round(255 * mean)) for mean in self.mean)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """timm's mixup and cutmix, and label smoothing. prob: of a batch to be mixed; switch: of it to be cut, then."""

    mixup: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Feed:
    """How samples reach the model.

    batch_size: of all ranks together. repeats: of a resident set's every image in an epoch, each time augmented anew
    (Hoffer et al. 2020), so that a batch may be larger than the set. shuffle: samples in the buffers of `stream`.
    resize: 0, or the size in pixels that images of other sizes are brought to. augment: on the device, or by timm's
    own pipeline in the workers.
    """

    batch_size: int = 256
    repeats: int = 1
    mode: FeedMode = "auto"
    augment: Where = "device"
    workers: int = 2
    shuffle: int = 8192
    resize: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        _check(self, "feed", 1 << 30, "shuffle", "resize", "workers", "batch_size", "repeats")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything else. log_every, checkpoint_every: in steps; 0 is never."""

    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"
    compile: bool = False
    log_every: int = 50
    checkpoint_every: int = 1000
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        _check(self, "run", MAX_SEED, "seed")
        _check(self, "run", 2**53, "log_every", "checkpoint_every")


@dataclass(frozen=True, kw_only=True)
class CleanRun(Run):
    """Pre-training also looks at images as they are. clean_every: in steps; 0 is never. clean_images: how many."""

    clean_every: int = 5000
    clean_images: int = 1000

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        super().__post_init__()
        _check(self, "run", 2**53, "clean_every", "clean_images")


def _check(settings: object, group: str, most: int, *names: str) -> None:
    for name in names:
        if not 0 <= (value := getattr(settings, name)) <= most:
            raise UsageError(f"{group}.{name} {value}: must be 0 to {most}")


def as_begun(settings: S, begun: Mapping[str, Any]) -> S:
    """What is left to this machine to choose stays as it was when the run began: the feed, and the precision."""
    whole: Any = settings
    feed, run = whole.feed, whole.run
    if feed.mode == "auto":
        feed = dataclasses.replace(feed, mode=begun["feed"]["mode"])
    if run.precision == "auto":
        run = dataclasses.replace(run, precision=begun["run"]["precision"])
    changed: S = dataclasses.replace(whole, feed=feed, run=run)
    return changed


UNTOLD = (
    "run.log_every",
    "run.checkpoint_every",
    "run.clean_every",
    "run.clean_images",
    "run.tensorboard",
    "feed.workers",
)
"""Settings that change no weight: a run may go on with others."""


def load(kind: type[T], path: str | None, given: Mapping[str, Any], overrides: list[str]) -> T:
    """Settings from their defaults, a YAML file, then options by dotted name, then overrides "dotted.name=value".

    Raises UsageError with the file, key and value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = parse_yaml(read_text(Path(path)), path) or {}
        if not isinstance(values, dict):
            raise UsageError(f"{path}: must be a mapping of settings, not {type(values).__name__}")
    for name, value in given.items():
        _set(values, name, value)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise UsageError(f"{override!r}: an override is name=value, as in augment.erase=0.25")
        _set(values, name, parse_yaml(text, override))
    try:
        return from_plain(kind, _over(to_values(kind()), values))
    except UsageError as error:
        raise UsageError(f"{path}: {error}" if path and not (given or overrides) else str(error)) from None


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Each value over its default. A protocol's defaults are not those of the groups: one given leaves the others."""
    inner = {
        name: _over(defaults[name], value)
        for name, value in values.items()
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
    }
    return {**defaults, **values, **inner}


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        inner = values.setdefault(group, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{name}: {group} is a value, not a group of settings")
        values = inner
    values[last] = value


def to_values(config: Any) -> dict[str, Any]:
    """Plain values, as YAML and JSON hold them: the inverse of `from_plain`."""
    return {name: _plain(getattr(config, name)) for name in (each.name for each in dataclasses.fields(config))}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_values(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def to_yaml(values: Mapping[str, Any]) -> str:
    """The text of config.yaml, which `--config` takes."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changes a weight and is not the same: "schedule.steps 100, was 200"."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name} {after.get(name)}, was {before.get(name)}"
        for name in sorted({*before, *after})
        if name not in UNTOLD and before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
