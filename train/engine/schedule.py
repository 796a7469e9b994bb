"""Length of a run, and its learning rate at each step."""

import math
from dataclasses import dataclass
from typing import Any

from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from fracgen.shards.errors import UsageError
from fracgen.train.engine.settings import Optim, Schedule

PUBLISHED_SAMPLES = 61_440_000
"""240,000 steps of 256 ("Scaling Backwards", its pre-training of ViT-Tiny)."""
_LR_BATCH = 512
"""Batch size that `optim.lr` is given for, as in DeiT."""
_LONG_SAMPLES, _LONG_EPOCHS = 1_000_000, 1000
"""A run of at least both is as long as published fine-tuning."""
LONG_ON_CPU = (
    "a published length, on a CPU: this may take days or weeks (the expected time follows); --steps, --samples or "
    "--epochs make it shorter, and examples/ has recipes for a laptop"
)


@dataclass(frozen=True, kw_only=True)
class ResolvedSchedule:
    """A schedule in steps. lr, warmup_lr, min_lr: as they are used, scaled by batch size / 512.

    milestones: the first steps at a tenth of the rate before; none for a cosine.
    is_published: whether it is as long as those of the papers: 61 million samples, or 1000 epochs of no tiny set.
    """

    steps: int
    warmup_steps: int
    lr: float
    warmup_lr: float
    min_lr: float
    milestones: tuple[int, ...] = ()
    is_published: bool


def resolve(schedule: Schedule, optim: Optim, *, batch_size: int, num_samples: int) -> ResolvedSchedule:
    """A schedule in steps, from whichever of steps, samples or epochs (of num_samples) is given.

    If none is, PUBLISHED_SAMPLES is the length. Warm-up is cut to its longest share of the run, for short runs: 5 % is
    our choice; in one of the published length it takes 2 %.

    Raises UsageError where more than one is given.
    """
    lengths = {name: value for name in ("steps", "samples", "epochs") if (value := getattr(schedule, name))}
    if len(lengths) > 1:
        raise UsageError(f"{' and '.join(f'--{name} {value}' for name, value in lengths.items())}: give one of them")
    samples = schedule.samples or schedule.epochs * num_samples or PUBLISHED_SAMPLES
    steps = schedule.steps or max(math.ceil(samples / batch_size), 1)
    num_images = steps * batch_size
    by_epochs = round(schedule.warmup_epochs * num_samples / batch_size)
    warmup = by_epochs if schedule.warmup_epochs else schedule.warmup_steps
    scale = batch_size / _LR_BATCH
    return ResolvedSchedule(
        steps=steps,
        warmup_steps=min(warmup, int(steps * schedule.warmup_share)),
        lr=optim.lr * scale,
        warmup_lr=min(schedule.warmup_lr, optim.lr) * scale,
        min_lr=min(schedule.min_lr, optim.lr) * scale,
        milestones=tuple(round(share * steps) for share in sorted(schedule.milestones)),
        is_published=num_images >= PUBLISHED_SAMPLES
        or (schedule.epochs >= _LONG_EPOCHS and num_images >= _LONG_SAMPLES),
    )


def describe_seconds(seconds: float) -> str:
    """A length of time in one unit, as in "3.2 days"."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    unit, length = next((pair for pair in units if seconds >= 1.5 * pair[1]), units[-1])
    return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:,.0f} {unit}"


def describe(resolved: ResolvedSchedule, optim: Optim, batch_size: int, num_samples: int) -> dict[str, str]:
    """Rows for the screen: the length in all units, and the learning rate as it is used.

    num_samples: of an epoch; 0 where samples are drawn without end.
    """
    samples = resolved.steps * batch_size
    epochs = f", {samples / num_samples:,.1f} epochs" if num_samples else ""
    steps = " and ".join(f"{milestone:,}" for milestone in resolved.milestones)
    warmup = f", from {resolved.warmup_lr:.2g}" if resolved.warmup_steps else ""
    after = f"; a tenth from step {steps} on" if steps else f", to {resolved.min_lr:.2g}, by a cosine"
    layers = f"; x {optim.layer_decay:g} from each layer to the one below" if optim.layer_decay < 1 else ""
    return {
        "steps": f"{resolved.steps:,} of {batch_size:,} samples each: {samples:,}{epochs}; "
        f"warm-up {resolved.warmup_steps:,}",
        "lr": f"{resolved.lr:.3g} ({optim.lr:g} x {batch_size} / {_LR_BATCH}){warmup}{after}; {optim.name}{layers}",
    }


def lr_schedule(optimizer: Optimizer, resolved: ResolvedSchedule) -> Scheduler:
    """timm's cosine, or its steps, after a linear warm-up: `step_update(k)` sets the rate of step k by k alone."""
    warmup: dict[str, Any] = {"warmup_t": resolved.warmup_steps, "warmup_lr_init": resolved.warmup_lr}
    if resolved.milestones:
        first = [milestone + 1 for milestone in resolved.milestones]  # timm compares with k + 1
        return MultiStepLRScheduler(optimizer, first, 0.1, warmup_prefix=False, t_in_epochs=False, **warmup)
    return CosineLRScheduler(optimizer, resolved.steps, resolved.min_lr, t_in_epochs=False, **warmup)
