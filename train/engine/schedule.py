"""How long a run is, and its learning rate at each step."""

import math
from dataclasses import dataclass

from timm.scheduler.cosine_lr import CosineLRScheduler
from torch.optim import Optimizer

from fracgen.shards.errors import UsageError
from fracgen.train.config import Optim, Schedule

PUBLISHED_SAMPLES = 61_440_000
"""240,000 steps of 256 ("Scaling Backwards", its pre-training of ViT-Tiny)."""
_WARMUP_SHARE = 0.05
_LR_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved schedule. lr, warmup_lr, min_lr: as they are used, scaled by batch size / 512."""

    steps: int
    warmup_steps: int
    lr: float
    warmup_lr: float
    min_lr: float


def resolve(schedule: Schedule, optim: Optim, *, batch_size: int, num_samples: int) -> Plan:
    """Steps from steps, samples or epochs (of num_samples), whichever is given; the published samples if none is.

    Raises UsageError where more than one is given, or a value is not allowed.
    """
    given = {name: value for name in ("steps", "samples", "epochs") if (value := getattr(schedule, name))}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'--{name} {value}' for name, value in given.items())}: give one of them")
    if any(not 0 < value < 1e15 for value in given.values()):
        raise UsageError(f"{next(iter(given))} {next(iter(given.values()))}: must be more than 0, and finite")
    if not (
        schedule.warmup_steps >= 0
        and 0 <= schedule.warmup_epochs < math.inf
        and schedule.warmup_lr >= 0
        and schedule.min_lr >= 0
    ):
        raise UsageError("schedule: warm-up and rates must be 0 or more")
    if not 0 < optim.lr < math.inf:
        raise UsageError(f"lr {optim.lr}: must be more than 0, and finite")
    samples = schedule.samples or schedule.epochs * num_samples or PUBLISHED_SAMPLES
    steps = schedule.steps or max(math.ceil(samples / batch_size), 1)
    warmup = round(schedule.warmup_epochs * num_samples / batch_size) or schedule.warmup_steps
    scale = batch_size / _LR_BATCH
    return Plan(
        steps=steps,
        warmup_steps=min(warmup, int(steps * _WARMUP_SHARE)),
        lr=optim.lr * scale,
        warmup_lr=min(schedule.warmup_lr, optim.lr) * scale,
        min_lr=min(schedule.min_lr, optim.lr) * scale,
    )


def describe(plan: Plan, batch_size: int, num_samples: int) -> str:
    """The length in all units: one line for the screen."""
    samples = plan.steps * batch_size
    return (
        f"{plan.steps:,} of {batch_size:,} images: {samples:,} samples, {samples / num_samples:,.1f} epochs; "
        f"warm-up {plan.warmup_steps:,}"
    )


def describe_rate(plan: Plan, optim: Optim, batch_size: int) -> str:
    """The learning rate as it is used: one line for the screen."""
    return (
        f"{plan.lr:.3g} ({optim.lr:g} x {batch_size} / {_LR_BATCH}), from {plan.warmup_lr:.2g}, to {plan.min_lr:.2g}, "
        f"by a cosine; {optim.name}"
    )


def cosine(optimizer: Optimizer, plan: Plan) -> CosineLRScheduler:
    """timm's cosine after a linear warm-up: `step_update(k)` sets the rate of step k, which depends on k alone."""
    return CosineLRScheduler(
        optimizer,
        t_initial=plan.steps,
        lr_min=plan.min_lr,
        warmup_t=plan.warmup_steps,
        warmup_lr_init=plan.warmup_lr,
        t_in_epochs=False,
    )
