"""Data for training: what is read (`open_source`), and whether it is kept in memory or streamed (`choose_feed`)."""

import os
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch

from fracgen.shards.errors import UsageError
from fracgen.train.data.old.resident import Resident
from fracgen.train.data.old.samples import Batch, SkippedDataWarning, Transform
from fracgen.train.data.old.source import Source, open_source
from fracgen.train.data.old.stream import Stream

__all__ = [
    "Batch",
    "Choice",
    "Mode",
    "Resident",
    "SkippedDataWarning",
    "Source",
    "Stream",
    "Transform",
    "choose_feed",
    "free_memory",
    "open_source",
]

Mode = Literal["auto", "resident", "stream"]
ROOM_AUTO, ROOM_MOST = 0.25, 0.9
"""Shares of the free memory that a set may take: unasked, leaving the rest to the model; and when asked for."""


class Sizes(Protocol):
    """What a set takes in memory. num_bytes: decoded. one_size: whether all images have one size."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def one_size(self) -> bool: ...


class Choice(NamedTuple):
    """How the samples come, and why: one line for the screen."""

    mode: Literal["resident", "stream"]
    why: str


def choose_feed(
    source: Sizes, mode: Mode, device: torch.device, *, transform: Transform | None = None, copies: int | None = None
) -> Choice:
    """Whether the set is kept in memory or streamed.

    copies: ranks on this machine, each of which keeps its own copy; torchrun's LOCAL_WORLD_SIZE by default.
    Raises UsageError for `resident` where the set does not fit.
    """
    host = torch.device("cpu")
    copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if copies is None else copies
    needed, free, place, shared = source.num_bytes, free_memory(host), "the host", copies
    if device.type == "cuda" and transform is None and free_memory(device) < free // copies:
        free, place, shared = free_memory(device), str(device), 1  # else the host is short, where it is decoded
    needed *= shared
    sizes = f"{_size(needed)} decoded{f' ({copies} ranks)' if shared > 1 else ''}, {_size(free)} free on {place}"
    if mode == "stream":
        return Choice("stream", f"stream, as asked for: {sizes}")
    if mode == "resident":
        if needed > ROOM_MOST * free:
            raise UsageError(f"feed.mode resident: the set does not fit in memory: {sizes}; give feed.mode=stream")
        return Choice("resident", f"resident, as asked for: {sizes}")
    if transform is not None and not source.one_size:
        return Choice("stream", "stream: images may differ in size until they are transformed (--resize N mends that)")
    if needed > ROOM_AUTO * free:
        return Choice("stream", f"stream: {sizes}, of which a resident set may take {ROOM_AUTO:.0%}")
    return Choice("resident", f"resident: {sizes}")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: of the device, or of the host and the control group that this process is in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        return min(free, most - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):  # no group, or one without a limit
        return free


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
