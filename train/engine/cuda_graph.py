"""Gradients by a CUDA graph: the kernels of a step recorded once, then launched together at little cost to the host."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.engine.settings import Precision, Run
from fracgen.train.ranks import Ranks

_WARM_UP = 3
"""Steps that run as without a graph, so that libraries choose their kernels and workspaces before the recording."""


def check(ranks: Ranks, precision: Precision, run: Run) -> None:
    """Raises UsageError where gradients cannot be recorded."""
    if run.grad_checkpointing:
        raise UsageError("run.cuda_graph: not beside run.grad_checkpointing, which reads random states; leave one out")
    if ranks.device.type != "cuda":
        raise UsageError("run.cuda_graph: is for a GPU; leave it out on a CPU")
    if ranks.world > 1:
        raise UsageError(f"run.cuda_graph: is for one process, and there are {ranks.world}; leave it out")
    if precision == "fp16":
        raise UsageError("run.cuda_graph: not in fp16, whose scale the host changes; give --precision bf16 or fp32")


class GraphedGradients:
    """A function that computes gradients, recorded at its fourth call and replayed from then on.

    compute: from images (B, C, H, W) and targets (B, num_classes), both on the GPU and of the same shapes and dtypes in
    each call, to the loss, a scalar there; it writes the gradients of leaves, and reads nothing back. Random numbers
    follow torch's default generator in a replay too.
    After a replay the gradients lie where the recording put them, so that they must not be set to None.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._compute, self._calls = compute, 0
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: Any = None
        self._images = self._targets = self._loss = torch.empty(0)

    @property
    def is_recorded(self) -> bool:
        """Whether the gradients belong to the graph."""
        return self._graph is not None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss, whose gradients are in the leaves. Before the recording all gradients are to be None."""
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._beside(images, targets)
        if self._graph is None:
            self._record(images, targets)
        self._images.copy_(images, non_blocking=True)
        self._targets.copy_(targets, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _beside(self, images: Tensor, targets: Tensor) -> Tensor:
        """On the stream that is recorded later, for which what autograd makes of a leaf is then meant."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._compute(images, targets).detach()
        current.wait_stream(self._stream)
        return loss

    def _record(self, images: Tensor, targets: Tensor) -> None:
        self._images, self._targets = images.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        # what other threads do meanwhile, such as one that loads the next batch, does not spoil the recording
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._loss = self._compute(self._images, self._targets).detach()
        self._graph = graph
