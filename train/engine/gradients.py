"""Loss and gradients of a batch: in one piece, or on a CPU in as many parts as there are threads.

With torch's own threads, each operation is split among the cores, and waits for the slowest of them hundreds of times a
step. Where each thread takes a part of the batch through the whole model, they wait for one another once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fracgen.train.ranks import Ranks

_FEWEST = 32
"""Images of a part at least: the many threads of a large machine would wait for Python's lock instead."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""A mean over the batch, from logits and targets."""
Gradients = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""From images (B, 3, H, W), targets (B, num_classes) and the scale of the loss to the loss, a scalar on the device. The
gradients, scaled, become the parameters' `grad`, which is None before."""


def gradients_of(model: nn.Module, loss: Loss, amp: torch.dtype | None, ranks: Ranks, *, compiled: bool) -> Gradients:
    """What gives loss and gradients in training: in DDP with several ranks, by parts where a CPU's model allows it.

    amp: the dtype of autocast, None for float32. compiled: whether to compile the model.
    """
    network: Any = torch.compile(model) if compiled else model
    if ranks.world > 1:
        network = DistributedDataParallel(network, device_ids=[ranks.device] if ranks.device.type == "cuda" else None)
    network.train()
    threads = torch.get_num_threads()
    if ranks.device.type == "cpu" and ranks.world == 1 and threads > 1 and not compiled:
        return _ByParts(model, loss, amp, threads)
    return _whole(network, loss, amp)


def _whole(network: Any, loss: Loss, amp: torch.dtype | None) -> Gradients:
    def gradients(images: Tensor, targets: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
            logits = network(images)
        value = loss(logits, targets)
        torch.autograd.backward(scale(value))
        return value

    return gradients


class _ByParts:
    """Gradients of a model on a CPU: of each part of the batch in a thread of its own, added up in order.

    A batch is taken whole where the model draws random numbers (dropout, drop path), which threads would do in any
    order, or has statistics of the batch (batch norm). The first batch shows it, by torch's generator and the buffers.
    """

    def __init__(self, model: nn.Module, loss: Loss, amp: torch.dtype | None, threads: int) -> None:
        self._model, self._loss, self._amp, self._threads = model, loss, amp, threads
        self._in_one = _whole(model, loss, amp)
        self._pool: ThreadPoolExecutor | None = None
        self._can_split: bool | None = None

    def __call__(self, images: Tensor, targets: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """Loss and gradients, as `Gradients` says."""
        if self._can_split is None:
            self._can_split = _takes_each_by_itself(self._model, images[:2])
        if not self._can_split or len(images) < _FEWEST * self._threads:
            return self._in_one(images, targets, scale)
        parts = zip(*(torch.tensor_split(each, self._threads) for each in (images, targets)), strict=True)
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

        def of_part(part: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            some, of_some = part
            with torch.autocast("cpu", dtype=self._amp, enabled=self._amp is not None):
                logits = self._model(some)
            value = self._loss(logits, of_some) * (len(some) / len(images))
            return value.detach(), torch.autograd.grad(scale(value), parameters, allow_unused=True)

        if self._pool is None:
            self._pool = _single_threads(self._threads)
        values, gradients = zip(*self._pool.map(of_part, parts), strict=True)
        for parameter, *of_parts in zip(parameters, *gradients, strict=True):
            there = [each for each in of_parts if each is not None]
            if there:
                parameter.grad = sum(there[1:], start=there[0])
        return torch.stack(values).sum()


@torch.no_grad()
def _takes_each_by_itself(model: nn.Module, images: Tensor) -> bool:
    """Whether a forward pass in training draws nothing and changes no buffer; what it did is undone."""
    random_state, buffers = torch.get_rng_state(), {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(images)
    same = torch.equal(random_state, torch.get_rng_state())
    torch.set_rng_state(random_state)
    for name, buffer in model.named_buffers():
        same = same and torch.equal(buffer, buffers[name])
        buffer.copy_(buffers[name])
    return same


def _single_threads(number: int) -> ThreadPoolExecutor:
    """A pool of threads, all of them started, in each of which torch uses one thread."""
    before, started = torch.get_num_threads(), Barrier(number)
    pool = ThreadPoolExecutor(number, "gradients", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: started.wait(), range(number)))
    torch.set_num_threads(before)  # what one thread sets is that of all threads to come
    return pool
