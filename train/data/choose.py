"""Whether decoded images are kept in memory or streamed."""

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from fracgen.shards.errors import UsageError
from fracgen.shards.files import shown_size
from fracgen.train.data.examples import ImageShape
from fracgen.train.data.pixels import RESIZE
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.memory import free_memory

AUTO_SHARE, MAX_SHARE = 0.25, 0.9
"""Shares of the free memory that a set may take: with `auto`, which leaves the rest to the model; and with `memory`."""


class Choice(NamedTuple):
    """Where the images are, and why: one line for the screen."""

    mode: Literal["memory", "stream"]
    reason: str


def choose(
    sets: Sequence[tuple[int, ImageShape]], settings: LoaderSettings, device: torch.device, *, has_transform: bool
) -> Choice:
    """Whether sets are kept in memory, all of them, or streamed.

    sets: (number of images, their shape) of each. has_transform: whether workers can transform images one by one, which
    may then differ in size. On this machine each of torchrun's processes keeps its own copy.
    Raises UsageError for sizes that cannot be had as the settings say; for `memory` where the sets do not fit.
    """
    mode, reason, advice = settings.mode, "by --loader", "give --loader stream"
    differing = next((shape.differing for _, shape in sets if shape.differing), "")
    if differing and (not has_transform or mode == "memory" or not settings.workers):
        mends = [RESIZE]
        if has_transform:
            mends.append("--loader stream" if mode == "memory" else "--workers 1 or more, which augment each by itself")
        raise UsageError(f"images differ in size: {differing}; {', or '.join(mends)}")
    if mode == "stream" and has_transform and not settings.workers and not sets[0][1].one_size:
        # a transform seeds the global generators, which in this process are those of drop path, mixup and cutmix
        raise UsageError(
            "--workers 0: images that may differ in size are augmented by workers when they are streamed; give "
            f"--workers 1 or more, or --loader memory, or {RESIZE}"
        )
    if differing and mode == "auto":
        return Choice("stream", "stream: images differ in size; timm's pipeline decodes and augments them in workers")
    if mode == "auto" and has_transform and not settings.workers and not all(shape.one_size for _, shape in sets):
        # without workers, images that may differ in size can only be loaded, which shows if they do
        mode, reason, advice = "memory", "as there are no workers", f"give --workers 1 or more, or {RESIZE}"
    on_host = settings.augment == "timm" and has_transform
    num_copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free, holder = free_memory(torch.device("cpu")), "the host"
    if device.type == "cuda" and not on_host and free_memory(device) < free // num_copies:
        free, holder, num_copies = free_memory(device), str(device), 1  # else the host is short, where it is decoded
    num_bytes = num_copies * sum(num * shape.num_bytes for num, shape in sets)
    copies = f" ({num_copies} ranks)" if num_copies > 1 else ""
    sizes = f"{shown_size(num_bytes)} decoded{copies}, {shown_size(free)} free on {holder}"
    if mode == "stream":
        return Choice("stream", f"stream, {reason}: {sizes}")
    if mode == "memory":
        if num_bytes > MAX_SHARE * free:
            raise UsageError(f"memory, {reason}: the set does not fit in memory: {sizes}; {advice}")
        return Choice("memory", f"memory, {reason}: {sizes}")
    if num_bytes > AUTO_SHARE * free:
        return Choice("stream", f"stream: {sizes}, of which {AUTO_SHARE:.0%} may be taken")
    return Choice("memory", f"memory: {sizes}")
