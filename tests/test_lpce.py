"""The loss and its targets, against the definition; the schedule, against the published numbers."""

import math

import numpy as np
import pytest
import torch

from fracgen.shards.errors import UsageError
from fracgen.train.augment.mix import Mixer
from fracgen.train.augment.settings import Mix
from fracgen.train.engine.losses import lpce
from fracgen.train.engine.schedule import describe, lr_schedule, resolve
from fracgen.train.engine.settings import Optim, Schedule


def batch(size=8, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 16, 16, generator=generator)
    return images, torch.randint(0, classes, (size,), generator=generator)


def test_lpce_is_the_mean_negative_log_likelihood_of_the_perturbation():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    likelihoods = [
        math.exp(row[label]) / sum(map(math.exp, row)) for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    expected = -sum(map(math.log, likelihoods)) / 6
    assert lpce(logits, torch.nn.functional.one_hot(labels, 4).float()).item() == pytest.approx(expected, rel=1e-6)
    half = lpce(logits.bfloat16(), torch.full((6, 4), 0.25))
    assert half.dtype == torch.float32


def test_without_mixing_targets_are_smoothed_and_images_untouched():
    images, labels = batch()
    mix = Mixer(Mix(mixup=0, cutmix=0, smoothing=0.1), num_classes=5, seed=0, rank=0)
    same, targets = mix(images.clone(), labels, 3)
    assert torch.equal(same, images)
    assert torch.allclose(targets, torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.02)
    Mix(mixup=0, cutmix=0).check_batch(7)


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}])
def test_mixing_is_a_function_of_seed_step_and_rank(settings):
    images, labels = batch()
    mixed = {}
    for seed, step, rank in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]:
        np.random.seed(12)
        mix = Mixer(Mix(**settings), num_classes=5, seed=seed, rank=rank)
        blended, targets = mix(images.clone(), labels, step)
        again, _ = Mixer(Mix(**settings), num_classes=5, seed=seed, rank=rank)(images.clone(), labels, step)
        assert torch.equal(blended, again) and not torch.equal(blended, images)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        mixed[blended.numpy().tobytes()] = np.random.random_sample()
    assert len(mixed) == 4, "each draws its own"
    np.random.seed(12)
    assert set(mixed.values()) == {np.random.random_sample()}, "and leaves the global generator alone"


def test_targets_say_how_much_of_each_image_is_there():
    images = torch.zeros(4, 3, 16, 16)
    images[:2] = 1
    labels = torch.tensor([1, 1, 0, 0])
    for step in range(20):
        mix = Mixer(Mix(smoothing=0), num_classes=2, seed=0, rank=0)
        mixed, targets = mix(images.clone(), labels, step)
        assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"mixup": -1.0}, {"prob": 1.1}, {"smoothing": float("nan")}, {"cutmix": float("inf")}]
)
def test_impossible_mixing(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        Mixer(Mix(**settings), num_classes=5, seed=0, rank=0)


def test_odd_batches_cannot_be_paired():
    with pytest.raises(UsageError, match="make it even"):
        Mix().check_batch(7)


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_the_published_length_and_rate():
    plan = resolve(Schedule(), Optim(), batch_size=256, num_samples=1000)
    assert (plan.steps, plan.warmup_steps) == (240_000, 5000)
    assert (plan.lr, plan.warmup_lr, plan.min_lr) == (5e-4, 5e-7, 5e-6)


def test_a_run_without_warm_up_says_no_rate_that_it_begins_from():
    for warmup_steps, words in ((0, "(0.001 x 512 / 512), to"), (2, "(0.001 x 512 / 512), from 1e-06, to")):
        plan = resolve(Schedule(steps=100, warmup_steps=warmup_steps), Optim(), batch_size=512, num_samples=1)
        assert words in describe(plan, Optim(), 512, 0)["lr"]


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"steps": 7}, 7),
        ({"samples": 1000}, 16),
        ({"epochs": 1.0}, 16),
        ({"epochs": 0.5}, 8),
        ({"samples": 1}, 1),
        ({"epochs": 1e-9}, 1),
    ],
)
def test_lengths_in_any_unit(schedule, steps):
    assert resolve(Schedule(**schedule), Optim(), batch_size=64, num_samples=1000).steps == steps


def test_warm_up_is_clipped_to_short_runs():
    plan = resolve(Schedule(steps=1000), Optim(), batch_size=512, num_samples=10)
    assert plan.warmup_steps == 50
    rates = rates_of(plan)
    assert (
        rates[0] == 1e-6
        and rates[25] == pytest.approx((1e-6 + 1e-3) / 2)
        and max(rates) == pytest.approx(1e-3, rel=0.01)
    )
    assert rates[:51] == sorted(rates[:51]) and rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[500] == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2) and 1e-5 < rates[-1] < 1.1e-5


@pytest.mark.parametrize(("epochs", "steps"), [(0.0, 50), (0.2, 0), (1.0, 2)])
def test_a_warm_up_in_epochs_replaces_that_in_steps(epochs, steps):
    """Of 100 images, in batches of 64: a fifth of an epoch is no step, and not the 5000 of the default."""
    plan = resolve(Schedule(steps=1000, warmup_epochs=epochs), Optim(), batch_size=64, num_samples=100)
    assert plan.warmup_steps == steps


def test_the_shortest_runs_have_rates():
    for steps in (1, 2, 3):
        plan = resolve(Schedule(steps=steps), Optim(), batch_size=512, num_samples=10)
        assert rates_of(plan)[0] == pytest.approx(1e-3)


def rates_of(plan):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=plan.lr)
    schedule = lr_schedule(optimizer, plan)
    rates = []
    for step in reversed(range(plan.steps)):  # a rate depends on its step alone
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates[::-1]


@pytest.mark.parametrize(
    ("schedule", "optim"),
    [
        ({"steps": 3, "epochs": 2.0}, {}),
        ({"steps": -3}, {}),
        ({"epochs": float("nan")}, {}),
        ({"epochs": float("inf")}, {}),
        ({"warmup_steps": -1}, {}),
        ({}, {"lr": 0.0}),
        ({}, {"lr": float("nan")}),
    ],
)
def test_impossible_schedules(schedule, optim):
    with pytest.raises(UsageError):
        resolve(Schedule(**schedule), Optim(**optim), batch_size=64, num_samples=1000)
