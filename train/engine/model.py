"""timm models: created by name, optimised as the recipes say, exported so that plain timm loads them."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import PatchEmbed  # type: ignore[attr-defined]
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.settings import nearest
from fracgen.train.engine import closed_form
from fracgen.train.engine.model_card import write_training
from fracgen.train.engine.provenance import Training
from fracgen.train.engine.settings import Model, Optim, Precision, Run
from fracgen.train.ranks import Ranks

Stats = tuple[float, float, float]
_LARGEST = {"depth": 1_000, "depths": 1_000}
"""Of options that say how many blocks there are: each takes its time to make."""
_LARGEST_NUMBER = 1_000_000
"""Of any other option."""
_POSITIVE = ("depth", "depths", "embed_dim", "embed_dims", "num_heads", "patch_size")
_FROM_SETTINGS = {"num_classes", "checkpoint_path", "pretrained", "pretrained_cfg", "img_size"}


def create(settings: Model, *, num_classes: int, size: int) -> nn.Module:
    """A timm model, not pre-trained, for images of `size` pixels.

    Raises UsageError for a model that timm does not know (it names the nearest), options that it does not take,
    images that its patches do not fill, and a closed-form init that is not defined for it.
    """
    if not timm.is_model(settings.name):
        hint = nearest(settings.name, timm.list_models())
        raise UsageError(f"model {settings.name!r}: timm {timm.__version__} has none of this name{hint}")
    _check_options(settings.options)
    arguments: dict[str, Any] = {"num_classes": num_classes, **settings.options}
    if settings.drop_path:
        arguments["drop_path_rate"] = settings.drop_path
    try:
        model = _create(settings.name, arguments, size)
    except Exception as error:  # any model of timm's, with any options: each has errors of its own
        if _is_no_refusal(error):
            raise
        if "drop_path_rate" in str(error):
            raise UsageError(f"model {settings.name}: has no drop path; give model.drop_path=0") from error
        refused = next((name for name in settings.options if f"'{name}'" in str(error)), None)
        if refused is not None:
            raise UsageError(
                f"model {settings.name}: takes no {refused}, which model.options gives; where a file gives options of "
                "another model, give model.options={} first"
            ) from error
        raise UsageError(f"model {settings.name} with {arguments}: {_in_words(error)}") from error
    _check_patches(model, settings.name, size)
    _try(model, settings.name, size, num_classes)
    closed_form.check(model, settings.init, settings.name)
    return model


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that other settings give, and for numbers with which a model is never made."""
    if ours := sorted(_FROM_SETTINGS & set(options)):
        raise UsageError(f"model.options.{ours[0]}: follows from the data and the other settings; leave it out")
    if options.get("features_only"):
        raise UsageError("model.options.features_only: makes a model without a classifier; leave it out")
    for name, value in options.items():
        largest = _LARGEST.get(name, _LARGEST_NUMBER)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not abs(number) <= largest:
                raise UsageError(f"model.options.{name} {number}: must be at most {largest:,}")
            if name in _POSITIVE and isinstance(number, int | float) and number < 1:
                raise UsageError(f"model.options.{name} {number}: must be 1 or more")


def _is_no_refusal(error: Exception) -> bool:
    """Whether an error says nothing of the options: memory is short, or the meta device lacks an operation."""
    return isinstance(error, MemoryError | NotImplementedError) or (
        isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error)) is not None
    )


def _in_words(error: Exception) -> str:
    return f"{error}" if isinstance(error, ValueError | RuntimeError) and str(error) else f"{error!r}"


def _check_patches(model: nn.Module, name: str, size: int) -> None:
    """Raises UsageError where patches do not fill an image: timm passes over what is left at the right and below."""
    patches: Any = getattr(model, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
        return
    side = max(patches.patch_size)
    if any(size % each for each in patches.patch_size):
        fits = " or ".join(str(each) for each in (size // side * side, -(-size // side) * side) if each)
        raise UsageError(
            f"model {name}: patches of {side} x {side} pixels do not fill an image of {size} x {size}; give a size of "
            f"{fits}, or another model.options.patch_size"
        )


def check(settings: Model, *, size: int) -> None:
    """Raise what `create` would, in a fraction of a second: on torch's meta device, which computes nothing."""
    try:
        with torch.device("meta"):
            create(settings, num_classes=1, size=size)
    except (UsageError, NotImplementedError) as error:
        if isinstance(error, UsageError) and "meta" not in str(error):
            raise
        create(settings, num_classes=1, size=size)  # a model that the meta device cannot make


def _create(name: str, arguments: Mapping[str, Any], size: int) -> nn.Module:
    model: nn.Module
    try:
        model = timm.create_model(name, img_size=size, **arguments)
    except TypeError as error:  # convolutions take images of any size, and no such argument
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, **arguments)
    return model


def _try(model: nn.Module, name: str, size: int, num_classes: int) -> None:
    """Raises UsageError where the model does not take an image of this size, or is no classifier."""
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:
        if _is_no_refusal(error):
            raise
        raise UsageError(f"model {name}: takes no images of {size} x {size} pixels ({_in_words(error)})") from error
    finally:
        model.train(training)
    if num_classes and getattr(logits, "shape", ()) != (1, num_classes):
        raise UsageError(f"model {name}: is no classifier with these model.options: it gives no score for each class")


def optimizer(model: nn.Module, settings: Optim, *, lr: float) -> torch.optim.Optimizer:
    """timm's optimiser: no decay of position and class tokens nor, by default, of biases and norms. lr: as it is used.

    With layer decay, the groups of timm's layers each have their `lr_scale`, which timm's schedules multiply by.
    Raises UsageError for an unknown one, one that needs second derivatives, a value that it refuses, or layer decay of
    a model whose layers timm does not know: it would pass over it.
    """
    if settings.layer_decay != 1 and not hasattr(model, "group_matcher"):
        raise UsageError(
            f"optim.layer_decay {settings.layer_decay:g}: timm knows no layers of {type(model).__name__}; leave it out"
        )
    try:
        betas: dict[str, Any] = {"betas": settings.betas} if settings.betas else {}
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=settings.name,
            lr=lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
            layer_decay=None if settings.layer_decay == 1 else settings.layer_decay,
            **betas,
        )
    except IndexError as error:
        raise UsageError(f"optim.betas {list(settings.betas)}: {settings.name} takes another number of them") from error
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"optimiser {settings.name!r}: {error or type(error).__name__}") from error
    if getattr(optimizer, "is_second_order", False):
        raise UsageError(f"optimiser {settings.name!r}: needs second derivatives, which are not computed; take another")
    return optimizer


def moving_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """timm's moving average of weights and buffers, which begins with the model's; None for a decay of 0."""
    return ModelEmaV3(model, decay=decay) if decay else None


def checkpoint_activations(model: nn.Module, run: Run, name: str) -> None:
    """Have a timm model compute its activations again in the backward pass, where the run's settings ask for it.

    Raises UsageError for a model that cannot, or has batch norms: their statistics would take in each batch twice.
    """
    if not run.grad_checkpointing:
        return
    if has_batch_norms(model):
        raise UsageError(
            f"run.grad_checkpointing: {name} has batch norms, which would count each batch twice; give "
            "run.accumulate=2 or more instead"
        )
    try:
        set_checkpointing(model, True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"run.grad_checkpointing: timm has none for {name}; give run.accumulate=2 or more") from error


def has_batch_norms(model: nn.Module) -> bool:
    """Whether any of its layers is a batch norm."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def set_checkpointing(model: nn.Module, enable: bool) -> None:
    """Turn it on or off in a timm model that has it."""
    change: Any = model.set_grad_checkpointing
    change(enable)


def describe(settings: Model, model: nn.Module, precision: Precision, ranks: Ranks) -> str:
    """One line for the screen."""
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    processes = f" on each of {ranks.world} processes" if ranks.world > 1 else ""
    init = "" if settings.init == "default" else f", {settings.init} init"
    return f"{settings.name}, {millions:.1f} M parameters{init}, {precision} on {device}{processes}"


_OF_OTHER_WEIGHTS = ("test_input_size", "test_crop_pct", "test_pool_size", "pool_size", "origin_url", "paper_ids")


def export(
    model: nn.Module,
    folder: Path,
    *,
    size: int,
    mean: Stats,
    std: Stats,
    tag: str,
    options: Mapping[str, Any],
    crop: float = 1.0,
    squeeze: bool = False,
    class_names: Sequence[str] = (),
    training: Training | None = None,
) -> None:
    """A timm folder: config.json, model.safetensors and README.md, whole or not at all.

    `timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=10)` loads it. size: of the images, in pixels.
    options: those the model was created with. crop: share of the shorter side that evaluation shows. squeeze: whether
    it squeezes images into a square first. class_names: for timm's label_names, where they are known and not the labels
    themselves. training: what the card says of it; without, there is no card.
    Raises DataError where it cannot be written; an old one is kept.
    """
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    for path in (temporary, old):
        shutil.rmtree(path, ignore_errors=True)
    crop_mode = "squash" if squeeze else "center"  # timm's own differs by model
    pretrained: dict[str, Any] = {"tag": tag, "mean": mean, "std": std, "interpolation": "bicubic"}
    pretrained |= {"crop_pct": crop, "crop_mode": crop_mode}
    try:
        save_for_hf(
            model,
            str(temporary),
            model_config={"pretrained_cfg": pretrained, **_label_names(class_names)},
            model_args=json.loads(json.dumps(dict(options))),
            safe_serialization=True,
        )
        path = temporary / "config.json"  # timm writes of the weights that others published, too
        config = json.loads(path.read_text("utf-8"))
        written = config["pretrained_cfg"]
        config["pretrained_cfg"] = {name: written[name] for name in written if name not in _OF_OTHER_WEIGHTS}
        config["pretrained_cfg"]["input_size"] = [3, size, size]
        path.write_text(json.dumps(config, indent=2), "utf-8")
        write_training(temporary, training)
        if folder.exists():  # folders cannot be exchanged in one step: between these two, the old one is beside
            folder.replace(old)
        temporary.replace(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(f"{folder}: cannot be written ({error}); the checkpoint is whole") from error
    shutil.rmtree(old, ignore_errors=True)


def _label_names(class_names: Sequence[str]) -> dict[str, list[str]]:
    are_numbers = all(name.isdecimal() and int(name) == label for label, name in enumerate(class_names))
    return {} if are_numbers else {"label_names": list(class_names)}
