"""What a file of weights tells of its model, by the programs of the field that save such files.

A state dict does not say which network it belongs to, nor how the images were normalised. The file around it often
does: by the arguments that timm's, DeiT's and MAE's programs keep in it, by the entries that a program writes, by its
name, or by the shapes of the weights. Read in the public code of SUPER-TADORY/1p-frac, ryoo-nakamura/OFDB,
nakashima-kodai/FractalDB-Pretrained-ViT-PyTorch, hirokatsukataoka16/FractalDB-Pretrained-ResNet-PyTorch (its commit
d9aae20), masora1030/CVPR2022-Pretrained-ViT-PyTorch (ExFractalDB, RCDB) and CVPR2023-FDSL-on-VisualAtom.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import Tensor

from fracgen.train.engine.model import Stats
from fracgen.train.engine.weight_files import WeightFile

_HALF: Stats = (0.5, 0.5, 0.5)
_FIFTH: Stats = (0.2, 0.2, 0.2)
_VIT_ENTRIES = {"model", "optimizer", "lr_scheduler", "scaler", "epoch"}
_RESNET_ENTRIES = {"state_dict", "optimizer", "scheduler", "epoch"}
_RESNET_NAME = re.compile(r"fractaldb.*resne?t?\d+", re.IGNORECASE)
_LARGEST = 1 << 12
"""Side of images, in pixels, that is believed."""
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_RESNETS: dict[tuple[tuple[int, ...], int], str] = {  # blocks of each stage, and convolutions of a block
    ((2, 2, 2, 2), 2): "resnet18",
    ((3, 4, 6, 3), 2): "resnet34",
    ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101",
    ((3, 8, 36, 3), 3): "resnet152",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a file tells of its model. model: name of timm's, "" where nothing tells it. size: of images, in pixels.

    mean, std: of levels in [0, 1], None where nothing tells them. num_classes: outputs of its head.
    model_source, stats_source: how that is known, in words.
    """

    model: str = ""
    model_source: str = ""
    size: int | None = None
    mean: Stats | None = None
    std: Stats | None = None
    stats_source: str = ""
    num_classes: int | None = None


def identify(file: WeightFile) -> Origin:
    """What a file of weights tells of its model."""
    arguments = _arguments(file.contents)
    model, model_source = _find_model(file, arguments)
    mean, std, stats_source = _find_stats(file, arguments, model)
    return Origin(
        model=model,
        model_source=model_source,
        size=_find_size(file.weights, arguments),
        mean=mean,
        std=std,
        stats_source=stats_source,
        num_classes=_num_classes(file.weights),
    )


def default_stats(model: str) -> tuple[Stats, Stats] | None:
    """(mean, std) of timm's own weights of a model; None where timm has no such model."""
    try:
        config = get_pretrained_cfg(model)
    except RuntimeError:
        return None
    mean, std = (read_stats(values) for values in ((config.mean, config.std) if config is not None else (None, None)))
    return (mean, std) if mean and std else None


def _arguments(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the program that wrote a file, where it kept them: a Namespace, or a dictionary of them."""
    values = contents.get("args")
    arguments = values if isinstance(values, Mapping) else getattr(values, "__dict__", {})
    return {str(name): value for name, value in arguments.items()}


def _find_model(file: WeightFile, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """(timm's name of the model, how it is known); ("", "") where nothing tells it."""
    named = arguments.get("model", file.contents.get("arch"))
    if type(named) is str and timm.is_model(named):
        return named, "its arguments"
    stem = file.path.name
    fitting = [name for name in timm.list_models() if re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", stem)]
    if fitting:
        return max(fitting, key=len), "its name"
    by_shapes = model_by_shapes(file.weights)
    return (by_shapes, "the shapes of its weights") if by_shapes else ("", "")


def model_by_shapes(weights: Mapping[str, Tensor]) -> str:
    """timm's name of the plain ViT or torchvision ResNet that weights of these shapes belong to; "" of others."""
    patches = weights.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4 and "cls_token" in weights:
        depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
        name = f"vit_{_WIDTHS.get(len(patches), '')}_patch{patches.shape[-1]}_224"
        return name if timm.is_model(name) and depth == (24 if len(patches) == 1024 else 12) else ""
    stages = tuple(
        len({key.split(".")[1] for key in weights if key.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    )
    return _RESNETS.get((stages, 3 if "layer1.0.conv3.weight" in weights else 2), "")


def _find_stats(file: WeightFile, arguments: Mapping[str, Any], model: str) -> tuple[Stats | None, Stats | None, str]:
    """(mean, std, how they are known)."""
    if arguments:
        mean, std = (_stats_or_none(arguments.get(name)) for name in ("mean", "std"))
        if mean and std and min(std) > 0:
            return mean, std, "its arguments"
        if "mean" not in arguments:  # DeiT's and MAE's programs have no such argument
            return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "as programs without an argument for them have it"
        if (own := default_stats(model)) is not None:
            return *own, f"what timm takes for {model} where its arguments leave them open"
    if set(file.contents) == _VIT_ENTRIES:
        return (
            _HALF,
            _HALF,
            "pre-training by 1p-frac's, OFDB's and FractalDB-ViT's programs, which save these entries",
        )
    is_resnet = "layer1.0.conv1.weight" in file.weights
    if is_resnet and (set(file.contents) == _RESNET_ENTRIES or _RESNET_NAME.search(file.path.name)):
        return _FIFTH, _HALF, "pre-training by the program of FractalDB's ResNets"
    return None, None, ""


def _stats_or_none(values: Any) -> Stats | None:
    try:
        return read_stats(values)
    except (ValueError, TypeError):
        return None


def read_stats(values: Any) -> Stats | None:
    """Mean or standard deviation of three channels, None where a file does not say. Raises ValueError, TypeError."""
    if not values:
        return None
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"mean or std {values}")
    return red, green, blue


def format_stats(mean: Stats | None, std: Stats | None) -> str:
    """Mean and std for the screen; one number where all channels have it."""
    if mean is None or std is None:
        return "mean and std unknown"
    words = [" ".join(f"{each:g}" for each in (stats if len(set(stats)) > 1 else stats[:1])) for stats in (mean, std)]
    return f"mean {words[0]}, std {words[1]}"


def _find_size(weights: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> int | None:
    """Side of the images, in pixels: by the arguments, or by the number of position embeddings of a plain ViT."""
    named = (arguments.get("input_size"), arguments.get("img_size"))
    sides = [value[-1] if isinstance(value, list | tuple) and value else value for value in named]
    positions, patches = weights.get("pos_embed"), weights.get("patch_embed.proj.weight")
    if positions is not None and patches is not None and positions.ndim == 3 and patches.ndim == 4:
        for num_positions in (positions.shape[1] - num_prefix for num_prefix in (1, 0, 2)):
            if math.isqrt(max(0, num_positions)) ** 2 == num_positions:
                sides.append(math.isqrt(num_positions) * int(patches.shape[-1]))
    return next((side for side in sides if type(side) is int and 0 < side <= _LARGEST), None)


def _num_classes(weights: Mapping[str, Tensor]) -> int | None:
    """Outputs of the head; None where there is none by its usual names."""
    head = next((weights[name] for name in ("head.weight", "fc.weight", "head.fc.weight") if name in weights), None)
    return int(head.shape[0]) if head is not None and head.ndim == 2 else None
