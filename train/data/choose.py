"""Whether decoded images are kept in memory or streamed."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from fracgen.shards.errors import UsageError
from fracgen.train.data.settings import LoaderMode

AUTO_SHARE, MAX_SHARE = 0.25, 0.9
"""Shares of the free memory that a set may take: with `auto`, which leaves the rest to the model; and with `memory`."""


class Choice(NamedTuple):
    """Where the images are, and why: one line for the screen."""

    mode: Literal["memory", "stream"]
    reason: str


def choose_mode(
    num_bytes: int,
    mode: LoaderMode,
    device: torch.device,
    *,
    on_host: bool = False,
    copies: int | None = None,
    reason: str = "by --loader",
    advice: str = "give --loader stream",
) -> Choice:
    """Whether a set is kept in memory or streamed.

    num_bytes: of its images, decoded. on_host: they are kept on the host, whatever the device. copies: processes on
    this machine, each of which keeps its own; torchrun's LOCAL_WORLD_SIZE by default. reason: why it is not `auto`.
    advice: what to do where the set does not fit. Raises UsageError for `memory` then.
    """
    host = torch.device("cpu")
    copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if copies is None else copies
    free, place, sharing = free_memory(host), "the host", copies
    if device.type == "cuda" and not on_host and free_memory(device) < free // copies:
        free, place, sharing = free_memory(device), str(device), 1  # else the host is short, where it is decoded
    num_bytes *= sharing
    sizes = f"{_size(num_bytes)} decoded{f' ({copies} ranks)' if sharing > 1 else ''}, {_size(free)} free on {place}"
    if mode == "stream":
        return Choice("stream", f"stream, {reason}: {sizes}")
    if mode == "memory":
        if num_bytes > MAX_SHARE * free:
            raise UsageError(f"memory, {reason}: the set does not fit in memory: {sizes}; {advice}")
        return Choice("memory", f"memory, {reason}: {sizes}")
    if num_bytes > AUTO_SHARE * free:
        return Choice("stream", f"stream: {sizes}, of which {AUTO_SHARE:.0%} may be taken")
    return Choice("memory", f"memory: {sizes}")


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
