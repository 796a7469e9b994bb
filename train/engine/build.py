"""A model with its initial weights: what became of each key, and which are drawn anew."""

import sys
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine import model as models
from fracgen.train.engine.init_weights import InitWeights
from fracgen.train.engine.weight_files import shorten


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of each key.

    num_classes: outputs of the head. missing: freshly initialised keys. unexpected: keys of the old head, left out.
    resized: keys brought to another resolution. modules: those that were loaded, () for all but the head. kept_head:
    whether the head is the checkpoint's. fresh: whether all of it is initialised.
    """

    num_classes: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    kept_head: bool = False
    fresh: bool = False

    @property
    def description(self) -> str:
        """One line for the screen."""
        if self.fresh:
            return "all weights new"
        if self.modules:
            return f"{' and '.join(self.modules)} loaded, all else new ({self.num_classes} classes)"
        resized = f" ({shorten(self.resized)} resized)" if self.resized else ""
        if self.kept_head:
            return f"all weights loaded, head kept{resized}"
        head = f"head: new ({self.num_classes} classes)" if self.num_classes else "no head"
        return f"{head}, all other weights loaded{resized}"


def build(init: InitWeights, *, num_classes: int, size: int, keep_head: bool = False) -> tuple[nn.Module, Loaded]:
    """The model for `num_classes` and images of `size` pixels, on the CPU, with the initial weights.

    Position embeddings are resampled to the size as timm does. The head, and what the weights do not hold, is
    freshly initialised (from torch's global generator), unless `keep_head` and it fits: the published loader's habit.
    Raises UsageError for weights of another architecture, with the keys.
    """
    model = models.create(init.model, num_classes=num_classes, size=size)
    own = model.state_dict()
    if init.weights is None:
        return model, Loaded(num_classes=num_classes, missing=tuple(own), fresh=True)
    heads = tuple(f"{name}." for name in _head_names(model))
    head = [key for key in own if key.startswith(heads) or not init.holds(key)]
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
        words = "; ".join(f"{fault} {shorten(keys)}" for fault, keys in faults.items() if keys)
        raise UsageError(f"{init.name}: weights of another architecture than {init.model.name}: {words}")
    model.load_state_dict({**own, **weights})
    return model, Loaded(
        num_classes=num_classes,
        missing=() if kept else tuple(sorted(head)),
        unexpected=tuple(sorted(old_head)),
        resized=tuple(key for key in weights if key in original and original[key].shape != weights[key].shape),
        modules=init.modules,
        kept_head=kept,
    )


def check(init: InitWeights, *, size: int) -> None:
    """Raise what `build` would for images of `size` pixels."""
    if init.weights is None:
        models.check(init.model, size=size)
    else:
        build(init, num_classes=init.num_classes or 1, size=size)


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
