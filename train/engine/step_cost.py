"""FLOPs and memory of a training step, counted on torch's fake tensors: nothing is computed, and nothing allocated."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fracgen.shards.errors import UsageError
from fracgen.shards.files import shown_size
from fracgen.train.cli import say
from fracgen.train.engine import model as models
from fracgen.train.engine.settings import Optim, ProtocolSettings
from fracgen.train.memory import free_memory
from fracgen.train.ranks import Ranks

_FLOAT = 4
"""Bytes. Weights, gradients and what optimisers keep are float32, whatever autocast computes in."""
_FEW, _MORE = 4, 8
"""Batches that are counted: what is the same in both does not grow with the batch."""
_COPIES = 3
"""Of a batch of images: as it is loaded, augmented, mixed."""
_MARGIN = 1.1
"""Gradients of activations and work space, as a share of what is kept: 10.3 GB were taken where 9.6 are counted
(ViT-Tiny/16 in bf16, batch of 512, an H200)."""
_ALWAYS_FITS = 20_000
"""Times the bytes of its images that no batch takes: 200 for ViT-Base/16, 3,100 for ViT-Tiny with patches of 2 x 2."""

Example = Callable[[int], Tensor]
"""From a batch size to an input of a model, on the CPU."""


def _attention_flops(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Of torch's fused kernel on a CPU, which its counter leaves out: two products. Shapes (B, heads, tokens, k)."""
    batch, heads, tokens, width = query
    return 2 * 2 * batch * heads * tokens * key[2] * width


_ATEN: Any = torch.ops.aten
_CPU_ATTENTION = {_ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step takes of a process.

    flops: of a forward pass of one image, a multiplication and an addition as two. weights: bytes of weights,
    gradients, optimiser and averages. activations: bytes kept for the backward pass, for one image. casts: bytes of
    weights in autocast's dtype. image: bytes of an image.
    """

    flops: int
    weights: int
    activations: int
    casts: int
    image: int

    def memory(self, batch_size: int, accumulate: int = 1) -> int:
        """Bytes that a process takes at the least for a batch of its own."""
        part = -(-batch_size // accumulate)
        return self.weights + self.casts + part * self.activations + batch_size * self.image

    def usual_memory(self, batch_size: int, accumulate: int = 1) -> int:
        """Bytes that it takes, as we measured them."""
        copies = (_COPIES - 1) * batch_size * self.image
        return round(_MARGIN * self.memory(batch_size, accumulate)) + copies

    def fitting_parts(self, batch_size: int, free: int) -> int:
        """Parts (`run.accumulate`) in which a batch fits into these bytes; 0 where it does in none."""
        divisors = [parts for parts in range(1, batch_size + 1) if batch_size % parts == 0]
        return next((parts for parts in divisors if self.usual_memory(batch_size, parts) <= free), 0)

    def fitting_batch(self, free: int) -> int:
        """The largest even batch of a process that fits into these bytes, at once; 0 for none."""
        each = _MARGIN * (self.activations + self.image) + (_COPIES - 1) * self.image
        return max(0, int((free - _MARGIN * (self.weights + self.casts)) // each) // 2 * 2)


def count(
    model: nn.Module,
    optim: Optim,
    *,
    size: int,
    amp: torch.dtype | None,
    num_ranks: int,
    grad_checkpointing: bool,
    example: Example | None = None,
) -> StepCost:
    """Count a training step of a model that takes images (B, 3, size, size), on any device.

    grad_checkpointing: whether it is on in the model. example: for a model that takes something else, which is then
    counted as no more than such images. The model is not changed.
    """
    inputs = example or (lambda batch: torch.zeros(batch, 3, size, size))
    few, more = (_count_forward(model, inputs, batch, amp=amp) for batch in (_FEW, _MORE))
    activations = (more[1] - few[1]) // (_MORE - _FEW)
    if grad_checkpointing:  # one block's are there while it is computed again
        models.set_checkpointing(model, False)
        whole = [_count_forward(model, inputs, batch, amp=amp)[1] for batch in (_FEW, _MORE)]
        models.set_checkpointing(model, True)
        activations += (whole[1] - whole[0]) // (_MORE - _FEW) // _num_blocks(model)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    copies = 2 + _state_per_weight(optim) + (optim.ema > 0) + (num_ranks > 1)  # DDP has its own of the gradients
    return StepCost(
        flops=few[0] // _FEW,
        weights=round(_FLOAT * copies * num_weights),
        activations=activations,
        casts=max(0, few[1] - _FEW * ((more[1] - few[1]) // (_MORE - _FEW))),
        image=_FLOAT * 3 * size**2,
    )


def _num_blocks(model: nn.Module) -> int:
    blocks = getattr(model, "blocks", None)
    return len(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) else 4


def _count_forward(model: nn.Module, inputs: Example, batch_size: int, *, amp: torch.dtype | None) -> tuple[int, int]:
    """(FLOPs, bytes kept for the backward pass without the weights themselves) of a forward pass."""
    kept: dict[int, Any] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _without_data(each) for name, each in [*model.named_parameters(), *model.named_buffers()]}
        own = {each.untyped_storage()._cdata for each in state.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        autocast = torch.autocast("cpu", dtype=amp, enabled=amp is not None)
        with counter, hooks, autocast, torch.enable_grad(), _training(model):
            torch.func.functional_call(model, state, (inputs(batch_size),))
        return counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values())


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").requires_grad_(tensor.requires_grad)


@contextlib.contextmanager
def _training(model: nn.Module) -> Any:
    """The model in training mode."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


def _state_per_weight(optim: Optim) -> float:
    """Numbers that an optimiser keeps for each weight: 2 for AdamW, 1 for SGD with momentum."""
    layer = nn.Linear(64, 64, bias=False)
    optimizer = models.optimizer(layer, replace(optim, layer_decay=1.0), lr=1.0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    state = optimizer.state[layer.weight].values()
    return sum(each.numel() for each in state if isinstance(each, Tensor)) / layer.weight.numel()


def check_batch_norms(model: nn.Module, settings: ProtocolSettings, ranks: Ranks) -> None:
    """Raises UsageError, before the first step, where a batch norm would see a single number of each channel."""
    on_each, parts, size = settings.loader.batch_size // ranks.world, settings.run.accumulate, settings.augment.size
    if on_each > parts or not models.has_batch_norms(model):
        return
    try:
        _count_forward(model, lambda batch: torch.zeros(batch, 3, size, size), 1, amp=None)
    except Exception as error:  # any other: fake tensors cannot pass through this model, and the first step will tell
        if "more than 1 value per channel" in str(error):
            name = settings.model.name
            raise UsageError(
                f"a batch of {on_each} on each process, run.accumulate {parts}: one image at a time, and of {size} x "
                f"{size} pixels a batch norm of {name} sees one place; give a larger --batch-size, or fewer parts"
            ) from error


def check_memory(
    model: nn.Module,
    settings: ProtocolSettings,
    ranks: Ranks,
    amp: torch.dtype | None,
    example: Example | None = None,
) -> None:
    """Raises UsageError, before the first step, where the memory that is free is less than a step takes at the least.

    Says so where it is less than a step usually takes. The line has what would fit. example: as of `count`.
    """
    run, batch_size = settings.run, settings.loader.batch_size // ranks.world
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.device.type == "cpu" else 1
    size, num_weights = settings.augment.size, sum(parameter.numel() for parameter in model.parameters())
    free = free_memory(ranks.device) // sharing + _FLOAT * num_weights  # the weights are there already
    if _ALWAYS_FITS * batch_size * 3 * _FLOAT * size**2 + 6 * _FLOAT * num_weights < free:
        return
    try:
        cost = count(
            model,
            settings.optim,
            size=size,
            amp=amp,
            num_ranks=ranks.world,
            grad_checkpointing=run.grad_checkpointing,
            example=example,
        )
    except Exception:  # a model that torch's fake tensors cannot pass through is not counted
        return
    if (needed := cost.usual_memory(batch_size, run.accumulate)) <= free:
        return
    line = (
        f"a batch of {batch_size} on each process takes about {shown_size(needed)} of memory, and {shown_size(free)} "
        f"are free; {_advice(cost, settings, batch_size, free, ranks.world)}"
    )
    if cost.memory(batch_size, run.accumulate) > free:
        raise UsageError(line)
    if ranks.first:
        say({"warning": line})


def _advice(cost: StepCost, settings: ProtocolSettings, batch_size: int, free: int, world: int) -> str:
    """What would fit."""
    run = settings.run
    ways = []
    if (parts := cost.fitting_parts(batch_size, free)) > run.accumulate:
        ways.append(f"run.accumulate={parts} fits, with the same batch")
    if (fits := cost.fitting_batch(free)) * world:
        ways.append(f"--batch-size {fits * world} fits at once")
    if not run.grad_checkpointing:
        ways.append("run.grad_checkpointing=true takes less")
    return " or ".join(ways) if ways else "give a smaller model, or more processes"
