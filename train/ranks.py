"""The processes of a run: one, or as many as torchrun starts."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fracgen.shards.errors import UsageError
from fracgen.train.memory import keep_freed

T = TypeVar("T")
_TIMEOUT = timedelta(hours=12)
"""Of waiting for the first rank, which may be downloading; a process that has ended is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of the run. control: a group on the CPU, for messages that need no device."""

    rank: int
    world: int
    device: torch.device
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks of float values."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def union(self, values: Mapping[str, str]) -> dict[str, str]:
        """The ranks' mappings together."""
        if self.world == 1:
            return dict(values)
        mappings: list[dict[str, str]] = [{} for _ in range(self.world)]
        dist.all_gather_object(mappings, dict(values), group=self.control)
        return {name: value for mapping in mappings for name, value in mapping.items()}

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.most(int(flag)))

    def most(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.world == 1:
            return value
        largest = torch.tensor([value])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.control)
        return int(largest.item())

    def agree(self, value: T) -> T:
        """The first rank's value."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def share(self, values: torch.Tensor) -> None:
        """Replace the values, in place, by the first rank's."""
        if self.world > 1:
            dist.broadcast(values, src=0)

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.world > 1:
            dist.barrier(group=self.control)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run the body on the first rank, then on the first of each other machine, then on the rest: one downloads."""
        turn = 0 if self.first else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(turn, 2):
            self.wait()


def join(device: str) -> Ranks:
    """Join the run: alone, or as torchrun's environment says. On a CPU, freed memory is kept (`memory.keep_freed`).

    device: auto, cpu or cuda. Raises UsageError where there is no such device.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: this torch sees no GPU; use --device cpu")
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(f"{local + 1} processes here, and {torch.cuda.device_count()} GPUs; start one for each GPU")
    chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    else:
        keep_freed()
    if world == 1:
        return Ranks(rank=0, world=1, device=chosen)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(rank=rank, world=world, device=chosen, control=dist.new_group(backend="gloo", timeout=_TIMEOUT))


def leave() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
