"""Frozen features of every block, of any number of nets, in one pass over the pictures."""

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.augment.device import Channels, normalise
from fracgen.train.data.old.examples import Examples
from fracgen.train.data.old.pictures import square
from fracgen.train.data.old.samples import Skipped
from fracgen.train.data.old.source import Progress
from fracgen.train.data.old.tars import BadSampleError
from fracgen.train.probing.thread_map import beside

Feature = Literal["auto", "cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network in evaluation mode, on its device.

    size: of its images, in pixels. mean, std: of levels in [0, 1]. blocks: names of those that give features.
    """

    name: str
    model: nn.Module
    device: torch.device
    size: int
    mean: Channels
    std: Channels
    feature: Literal["cls", "mean"] = "mean"
    blocks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How pictures are read. crop: share of the shorter side that is shown. threads: batches at once."""

    crop: float = 1.0
    batch_size: int = 64
    threads: int = 2
    skip_bad: bool = False


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Features by net and block, float32 (N, D) on the CPU, and labels, int64 (N,).

    skipped: pictures that could not be decoded, by reason.
    """

    features: Sequence[Sequence[Tensor]]
    labels: Tensor
    skipped: Counter[str]


def block_names(net: Net) -> list[str]:
    """timm's names of what gives features: the blocks of a transformer, the stages of a convolutional net.

    Raises UsageError for a model that gives none.
    """
    model: Any = net.model
    if not callable(getattr(model, "forward_intermediates", None)):
        raise UsageError(f"{net.name}: timm gives no features of this model's blocks (no forward_intermediates)")
    try:
        count = len(block_features(net, torch.zeros(1, 3, net.size, net.size, device=net.device)))
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UsageError(f"{net.name}: timm gives no features of this model's blocks ({error})") from error
    told = [str(each.get("module", "")) for each in getattr(model, "feature_info", [])]
    return told if len(told) == count else [f"block {number}" for number in range(1, count + 1)]


def choose_feature(model: nn.Module, wanted: Feature, name: str) -> Literal["cls", "mean"]:
    """What `auto` means for this model: the class token where it classifies by that, else the mean of all places.

    Raises UsageError where a class token is wanted of a model that has none.
    """
    has_token = getattr(model, "cls_token", None) is not None and _gives_prefix(model)
    if wanted == "cls" and not has_token:
        raise UsageError(f"--feature cls: {name} has no class token; use --feature mean")
    if wanted != "auto":
        return wanted
    return "cls" if has_token and getattr(model, "global_pool", "token") == "token" else "mean"


def _gives_prefix(model: Any) -> bool:
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


@torch.no_grad()
def block_features(net: Net, images: Tensor) -> list[Tensor]:
    """Features of each block, float32 (B, D): the class token, or the mean over patches or places.

    images: float32 (B, 3, size, size), normalised. They are as the block leaves them, before any later norm.
    """
    model: Any = net.model
    if net.feature == "cls":
        found = model.forward_intermediates(images, intermediates_only=True, return_prefix_tokens=True)
        return [prefix[:, 0].float() for _, prefix in found]
    return [_mean(each) for each in model.forward_intermediates(images, intermediates_only=True)]


def _mean(found: Tensor) -> Tensor:
    """Over (B, D, H, W), or (B, L, D)."""
    return found.float().mean((2, 3) if found.ndim == 4 else 1)


def show(picture: PillowImage.Image, size: int, crop: float) -> npt.NDArray[np.uint8]:
    """The shorter side to size / crop, bicubic and antialiased; then the middle: uint8 (3, size, size)."""
    whole = square(picture, int(size / crop))
    first = (whole.width - size) // 2
    levels = np.asarray(whole.crop((first, first, first + size, first + size)))
    return np.ascontiguousarray(levels.transpose(2, 0, 1))


def extract(
    nets: Sequence[Net],
    examples: Examples,
    *,
    reading: Reading,
    amp: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Every picture is decoded once and goes through every net; only its features are kept.

    A batch is one thread's work from file to features, so that the number of threads changes nothing.

    amp: what the nets compute in, where not float32. progress: takes (done, of all).
    Raises BadSampleError for a picture that cannot be decoded, unless `reading.skip_bad`; DataError where none can.
    """

    def job(number: int) -> _Part:
        first = number * reading.batch_size
        return _part(nets, examples, range(first, min(first + reading.batch_size, len(examples))), reading, amp)

    rows: list[list[Tensor]] = []
    kept, skipped = list[int](), Skipped()
    for number, part in enumerate(beside(job, math.ceil(len(examples) / reading.batch_size), reading.threads)):
        skipped.extend(part.bad)
        if part.kept:
            if not rows:
                rows = [[each.new_empty(len(examples), each.shape[1]) for each in found] for found in part.features]
            for blocks, found in zip(rows, part.features, strict=True):
                for block, each in zip(blocks, found, strict=True):
                    block[len(kept) : len(kept) + len(part.kept)] = each
            kept += part.kept
        if progress is not None:
            progress(min((number + 1) * reading.batch_size, len(examples)), len(examples))
    if not kept:
        raise DataError(f"{examples.name}: no image of {len(examples)} can be decoded")
    features = [[block[: len(kept)] for block in blocks] for blocks in rows]
    return Extracted(features=features, labels=torch.from_numpy(examples.labels[kept]), skipped=skipped.counts)


class _Part(NamedTuple):
    """A batch: features by net and block, the numbers of its pictures, and what is wrong with the others."""

    features: list[list[Tensor]]
    kept: list[int]
    bad: list[tuple[str, str]]


def _part(nets: Sequence[Net], examples: Examples, numbers: range, reading: Reading, amp: torch.dtype | None) -> _Part:
    shown: dict[int, list[npt.NDArray[np.uint8]]] = {net.size: [] for net in nets}
    kept, bad = list[int](), list[tuple[str, str]]()
    for number in numbers:
        try:
            picture = examples.picture(number)
        except BadSampleError as error:
            if not reading.skip_bad:
                raise
            bad.append((error.reason, str(error)))
            continue
        kept.append(number)
        for size, levels in shown.items():
            levels.append(show(picture, size, reading.crop))
    features = [_of_batch(net, np.stack(shown[net.size]), amp) for net in nets] if kept else []
    return _Part(features, kept, bad)


def _of_batch(net: Net, images: npt.NDArray[np.uint8], amp: torch.dtype | None) -> list[Tensor]:
    levels = torch.from_numpy(images).to(net.device)
    with torch.autocast(net.device.type, dtype=amp, enabled=amp is not None):
        found = block_features(net, normalise(levels, net.mean, net.std))
    return [each.cpu() for each in found]
