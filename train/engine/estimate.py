"""Hours and memory of a run before it is begun: counted FLOPs at a measured utilisation, and a few steps here."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.shards.files import shown_size
from fracgen.train.cli import say
from fracgen.train.engine import checks, precision, schedule, step_cost
from fracgen.train.engine import model as models
from fracgen.train.engine.init_weights import load_init
from fracgen.train.engine.losses import cross_entropy
from fracgen.train.engine.schedule import describe_seconds
from fracgen.train.engine.settings import Model, ProtocolSettings
from fracgen.train.engine.step_cost import StepCost
from fracgen.train.memory import free_memory
from fracgen.train.ranks import Ranks

GPUS, PEAK_FLOPS, GPU_BYTES = 8, 989e12, 80e9
"""A machine of H100 SXM: dense products in bf16, as NVIDIA's data sheet has them, and memory of one."""
UTILISATION = 0.15
"""Of the peak that ViT-Tiny/16 takes, compiled, in batches of 512: 19,735 images/s of 7.52 GFLOPs on an H200, whose
peak is the same (docs/benchmarks.md). Wider nets take more of it, so that hours are rather too many than too few."""
AUGMENT_SECONDS = 1 / 53_749
"""For an image, by the published augmentation, in the same run; it does not overlap with the model."""
_PRODUCTS = 3
"""Of a forward pass's FLOPs, what a training step takes: the backward pass is two."""
_CPU_FLOPS, _SECONDS = 2e11, 3.0
"""Of the steps that are timed here: FLOPs of one on a CPU, at most, and how long all of them take at least."""


class Runs(ProtocolSettings, Protocol):
    """Settings of a run that begins with weights and tells classes apart."""

    @property
    def checkpoint(self) -> str:
        """Weights to begin with."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0: the data's."""


def estimate_run(settings: Runs, source: str, open_train: Callable[[], Any]) -> dict[str, Any]:
    """`estimate` of a run, whose data is opened for what its settings do not say: classes, images of an epoch.

    source: where the data is. open_train: opens the training examples.
    """
    model = load_init(settings.checkpoint, settings.model).model
    length = settings.schedule
    if settings.num_classes and (length.steps or length.samples or not length.epochs):
        return estimate(settings, model, num_classes=settings.num_classes, num_samples=1)
    if not source:
        raise UsageError("--estimate: give --num-classes with --samples or --steps, or the data")
    examples = open_train()
    return estimate(settings, model, num_classes=len(examples.class_names), num_samples=len(examples))


def estimate(settings: ProtocolSettings, model: Model, *, num_classes: int, num_samples: int) -> dict[str, Any]:
    """What a run would take on eight H100, and here, for the result; how it is estimated is said on stderr.

    model: the architecture. num_samples: images of an epoch.
    Raises UsageError for settings that cannot work.
    """
    here = Ranks(rank=0, world=1, device=_device(settings.run.device))
    dtype = precision.resolve(settings.run.precision, here.device)
    checks.check_run(settings, here, dtype)
    batch_size = settings.loader.batch_size
    plan = schedule.resolve(settings.schedule, settings.optim, batch_size=batch_size, num_samples=num_samples)
    samples = plan.steps * batch_size
    network = _create(settings, model, num_classes)
    on_gpus, cost = (
        _count(network, settings, amp=amp, num_ranks=ranks)
        for amp, ranks in ((torch.bfloat16, GPUS), (precision.autocast_dtype(dtype), 1))
    )
    total = (_PRODUCTS + settings.run.grad_checkpointing) * on_gpus.flops * samples
    seconds = total / (GPUS * PEAK_FLOPS * UTILISATION) + samples * AUGMENT_SECONDS / GPUS
    free = free_memory(here.device)
    most = batch_size if here.device.type == "cuda" else max(2, int(_CPU_FLOPS / (_PRODUCTS * cost.flops)))
    timed = min(most, batch_size, cost.fitting_batch(free))
    rate = _measure(network.to(here.device), settings, here, dtype, timed) if timed else 0.0
    on_each, accumulate = max(1, batch_size // GPUS), settings.run.accumulate
    say(
        {
            "model": f"{models.describe(model, network, dtype, here)}, "
            f"{on_gpus.flops / 1e9:.3g} GFLOPs forward an image",
            "8 x H100": f"an estimate: {describe_seconds(seconds)}, from {total:.3g} FLOPs at {UTILISATION:.0%} of the "
            f"peak, which ViT-Tiny/16 takes on an H200; {_in_words(on_gpus, on_each, accumulate, int(GPU_BYTES))}",
            "here": (f"{describe_seconds(samples / rate)} at {rate:.3g} images/s of the model" if rate else "too large")
            + f", from a few steps of {timed}; {_in_words(cost, batch_size, accumulate, free)}",
        }
    )
    return {
        "steps": plan.steps,
        "samples": samples,
        "forward_gflops_per_image": _rounded(on_gpus.flops / 1e9),
        "total_flops": _rounded(total),
        "utilisation": UTILISATION,
        "hours_on_8_h100": _rounded(seconds / 3600),
        "gb_on_each_h100": _rounded(on_gpus.usual_memory(on_each, accumulate) / 1e9),
        "images_per_second_here": _rounded(rate),
        "hours_here": _rounded(samples / rate / 3600) if rate else None,
        "gb_here": _rounded(cost.usual_memory(batch_size, accumulate) / 1e9),
        "free_gb_here": _rounded(free / 1e9),
    }


def _in_words(cost: StepCost, batch_size: int, accumulate: int, free: int) -> str:
    """Memory that a batch on one device takes, of what there is, and what would fit."""
    needed = cost.usual_memory(batch_size, accumulate)
    line = f"{batch_size} images take {shown_size(needed)} of {shown_size(free)}"
    if needed <= free:
        return line
    parts = cost.fitting_parts(batch_size, free)
    mend = f"run.accumulate={parts} fits" if parts else f"{cost.fitting_batch(free)} images fit"
    return f"{line}: too much, {mend}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _device(name: str) -> torch.device:
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: this torch sees no GPU; use --device cpu")
    return torch.device("cuda" if cuda else "cpu")


def _create(settings: ProtocolSettings, model: Model, num_classes: int) -> nn.Module:
    network = models.create(model, num_classes=num_classes, size=settings.augment.size)
    models.checkpoint_activations(network, settings.run, model.name)
    return network


def _count(network: nn.Module, settings: ProtocolSettings, *, amp: torch.dtype | None, num_ranks: int) -> StepCost:
    return step_cost.count(
        network,
        settings.optim,
        size=settings.augment.size,
        amp=amp,
        num_ranks=num_ranks,
        grad_checkpointing=settings.run.grad_checkpointing,
    )


def _measure(network: nn.Module, settings: ProtocolSettings, ranks: Ranks, dtype: Any, batch_size: int) -> float:
    """Images/s of forward pass, backward pass and optimiser, after one that warms up. It trains the network."""
    amp, size = precision.autocast_dtype(dtype), settings.augment.size
    precision.choose_attention(network, amp, ranks.device)
    optimizer = models.optimizer(network.train(), settings.optim, lr=1e-6)
    images = torch.randn(batch_size, 3, size, size, device=ranks.device)

    def step() -> Tensor:
        with torch.autocast(ranks.device.type, dtype=amp, enabled=amp is not None):
            logits = network(images)
        loss = cross_entropy(logits, logits.detach().softmax(1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    step().item()
    num, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        step().item()
        num += 1
    return num * batch_size / (time.perf_counter() - start)
