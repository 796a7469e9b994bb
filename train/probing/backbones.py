"""Frozen networks to probe, from checkpoints or randomly initialised, and the features of their blocks."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine.build import build
from fracgen.train.engine.closed_form import initialize
from fracgen.train.engine.init_weights import InitWeights, load_init
from fracgen.train.engine.published import default_stats, format_stats
from fracgen.train.engine.settings import TIMM, Model
from fracgen.train.probing.settings import Feature, ProbeSettings
from fracgen.train.seeding import key

RANDOM_INIT = "random init"
_SIZE, _MEAN_STD = 224, (0.5, 0.5, 0.5)
"""Of checkpoints that do not say; mean and std only where timm has none for the architecture."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen network in evaluation mode, on its device.

    architecture: name and options of the timm model. size: of its images, in pixels. mean, std: of levels in [0, 1].
    feature: what a block's feature is. blocks: names of the blocks. random: whether no weight comes from a checkpoint.
    origin: what the checkpoint tells of itself, for the screen.
    """

    name: str
    network: nn.Module = field(repr=False)
    device: torch.device
    size: int
    mean: tuple[float, float, float] = _MEAN_STD
    std: tuple[float, float, float] = _MEAN_STD
    feature: Literal["cls", "mean"] = "mean"
    blocks: Sequence[str] = ()
    architecture: Model = field(default_factory=Model)
    random: bool = False
    origin: str = ""

    def __str__(self) -> str:
        stats = format_stats(self.mean, self.std)
        return f"{self.name}: {len(self.blocks)} blocks, {self.feature}, {self.size} px, {stats}"

    def describe(self) -> dict[str, Any]:
        """The backbone's entry in probe.json, without the accuracies."""
        return {
            "name": self.name,
            "random": self.random,
            "model": self.architecture.name,
            "options": dict(self.architecture.options),
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "feature": self.feature,
        }


def load_backbones(settings: ProbeSettings, device: torch.device) -> list[Backbone]:
    """A backbone for each checkpoint and, where `settings.random`, a random one for each architecture among them.

    Raises UsageError for checkpoints of one name, models without blocks or without the feature, and what `load_init`
    and `build` refuse.
    """
    inits: list[InitWeights] = []
    for word in settings.checkpoints:
        name, path = parse_checkpoint(word)
        if name in {each.name for each in inits} | {RANDOM_INIT}:
            raise UsageError(f"--checkpoint {word}: another is called {name!r}; give names: --checkpoint NAME={path}")
        inits.append(replace(load_init(path, settings.model), name=name))
    if settings.random:
        inits += _random_inits(inits)
    return [_load(init, settings, device) for init in inits]


def _random_inits(inits: Sequence[InitWeights]) -> list[InitWeights]:
    """Fresh weights for each architecture that has no fresh ones yet, at size, mean and std of its first checkpoint."""
    random_already = [init.model for init in inits if init.weights is None]
    first_of: list[InitWeights] = []
    for init in inits:
        if init.model not in [*random_already, *(each.model for each in first_of)]:
            first_of.append(init)
    if len(first_of) == 1:
        return [replace(first_of[0], weights=None, name=RANDOM_INIT)]
    return [replace(init, weights=None, name=f"{RANDOM_INIT} as {init.name}") for init in first_of]


def parse_checkpoint(word: str) -> tuple[str, str]:
    """(name, path) of a word [NAME=]PATH; without a name, that of the run, the folder, the file or timm's weights."""
    name, equals, path = word.partition("=")
    if equals and name and "/" not in name and not Path(word).exists():
        return name, path
    if word.startswith(TIMM):
        return word.removeprefix(TIMM), word
    parts = [part for part in Path(word).absolute().parts if part != "model"]
    return Path(parts[-1]).stem if Path(word).is_file() else parts[-1], word


def _load(init: InitWeights, settings: ProbeSettings, device: torch.device) -> Backbone:
    """The frozen network; weights that the checkpoint does not hold are drawn from the seed."""
    size = settings.size or init.size or _SIZE
    torch.manual_seed(key(settings.seed, "init"))
    network, _ = build(init, num_classes=0, size=size)
    initialize(network, init.model.init, seed=settings.seed)
    mean, std = default_stats(init.model.name) or (_MEAN_STD, _MEAN_STD)
    backbone = Backbone(
        name=init.name,
        network=network.to(device).eval().requires_grad_(False),
        device=device,
        size=size,
        mean=init.mean or mean,
        std=init.std or std,
        feature=resolve_feature(network, settings.feature, init.name),
        architecture=init.model,
        random=init.weights is None,
        origin=init.origin if init.weights is not None else "",
    )
    return replace(backbone, blocks=block_names(backbone))


def resolve_feature(network: nn.Module, feature: Feature, name: str) -> Literal["cls", "mean"]:
    """`auto` resolved: the class token where the network classifies by it, else the mean over all positions.

    Raises UsageError where "cls" is given and the network has no class token.
    """
    has_token = getattr(network, "cls_token", None) is not None and _returns_prefix_tokens(network)
    if feature == "cls" and not has_token:
        raise UsageError(f"--feature cls: {name} has no class token; use --feature mean")
    if feature != "auto":
        return feature
    return "cls" if has_token and getattr(network, "global_pool", "token") == "token" else "mean"


def _returns_prefix_tokens(network: Any) -> bool:
    forward = getattr(network, "forward_intermediates", None)
    return forward is not None and "return_prefix_tokens" in inspect.signature(forward).parameters


def block_names(backbone: Backbone) -> list[str]:
    """timm's names of the blocks of a transformer, or of the stages of a convolutional network.

    Raises UsageError for a model of which timm gives no intermediate features.
    """
    network: Any = backbone.network
    refusal = f"{backbone.name}: timm gives no features of this model's blocks"
    if not callable(getattr(network, "forward_intermediates", None)):
        raise UsageError(f"{refusal} (no forward_intermediates)")
    try:
        count = len(block_features(backbone, torch.zeros(1, 3, backbone.size, backbone.size, device=backbone.device)))
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UsageError(f"{refusal} ({error})") from error
    names = [str(info.get("module", "")) for info in getattr(network, "feature_info", [])]
    return names if len(names) == count else [f"block {number}" for number in range(1, count + 1)]


@torch.no_grad()
def block_features(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Features of each block, float32 (B, D): the class token, or the mean over patches or places.

    They are taken as the block returns them, before any later norm. images: float32 (B, 3, size, size), normalised.
    """
    network: Any = backbone.network
    if backbone.feature == "cls":
        blocks = network.forward_intermediates(images, intermediates_only=True, return_prefix_tokens=True)
        return [prefix[:, 0].float() for _, prefix in blocks]
    blocks = network.forward_intermediates(images, intermediates_only=True)
    return [block.float().mean((2, 3) if block.ndim == 4 else 1) for block in blocks]  # (B, D, H, W) or (B, L, D)
