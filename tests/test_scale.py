"""Settings for large models: what each means, and that a run which was killed ends as one that was not."""

import json

import numpy as np
import pytest
import timm
import torch
from conftest import run_until_killed, two_processes
from safetensors.torch import load_file

from fracgen.shards.errors import UsageError
from fracgen.train import finetune, pretrain
from fracgen.train.data.sampler import Sampler
from fracgen.train.engine import model as models
from fracgen.train.engine.checkpoint import load, save
from fracgen.train.engine.losses import cross_entropy
from fracgen.train.engine.schedule import lr_schedule, resolve
from fracgen.train.engine.settings import Model, Optim, Run, Schedule
from fracgen.train.engine.train_step import TrainState, TrainStep
from fracgen.train.ranks import Ranks

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
OPTIONS = {"patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2}
TINY = [
    "--model=vit_tiny_patch16_224",
    "--batch-size=8",
    "--device=cpu",
    "--workers=0",
    "augment.size=32",
    "run.clean_images=24",
    "run.log_every=1",
    *(f"model.options.{name}={value}" for name, value in OPTIONS.items()),
]
SETTINGS = {
    "accumulate": ["run.accumulate=4"],
    "grad_checkpointing": ["run.grad_checkpointing=true"],
    "ema": ["optim.ema=0.8"],
    "layer_decay": ["optim.layer_decay=0.65"],
    "repeated_augmentation": ["loader.repeated_augmentation=3"],
    "milestones": ["schedule.milestones=[0.4,0.8]"],
    "decay_all": ["optim.decay_all=true", "optim.weight_decay=0.3"],
}
EVERYTHING = [word for words in SETTINGS.values() for word in words]


def train(shards, out, *words) -> int:
    return pretrain.run(["--shards", str(shards), "--out", str(out), *TINY, *words])


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def vit(drop_path=0.0, seed=0):
    torch.manual_seed(seed)
    settings = Model(name="vit_tiny_patch16_224", drop_path=drop_path, options=OPTIONS)
    return models.create(settings, num_classes=5, size=32)


def batch(size=64, seed=1):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 32, 32, generator=draws), torch.rand(size, 5, generator=draws).softmax(1)


def train_step(model, *, optim=None, run=None, steps=10):
    optim, run = optim or Optim(name="sgd", lr=0.5, weight_decay=0.0), run or Run()
    plan = resolve(Schedule(steps=steps), optim, batch_size=512, num_samples=10)
    optimizer = models.optimizer(model, optim, lr=plan.lr)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(enabled=False),
        ema=models.moving_average(model, optim.ema),
    )
    return TrainStep(
        state=state,
        loss=cross_entropy,
        network=model.train(),
        lr_schedule=lr_schedule(optimizer, plan),
        amp=None,
        optim=optim,
        run=run,
        ranks=ALONE,
    )


def test_four_parts_of_16_train_as_one_of_64():
    weights, losses = [], []
    for accumulate in (1, 4):
        model = vit()
        optim = Optim(name="sgd", lr=0.5, weight_decay=0.0, clip=0.1)
        step = train_step(model, optim=optim, run=Run(accumulate=accumulate))
        losses.append([step(number, *batch(seed=number)).item() for number in range(4)])
        weights.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
    before = torch.cat([each.detach().flatten() for each in vit().parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (weights[0] - weights[1]).abs().max() < 1e-5 < 1e-3 < (weights[0] - before).abs().max()


def test_the_moving_average_is_a_plain_loop():
    model = vit()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    step = train_step(model, optim=Optim(name="sgd", lr=0.5, ema=0.75))
    for number in range(5):
        step(number, *batch(8, seed=number))
        for name, value in model.state_dict().items():
            average[name] = 0.75 * average[name] + 0.25 * value
    measured = step.state.eval_model.state_dict()
    assert step.state.eval_model is not model
    assert all(torch.allclose(measured[name], average[name], atol=1e-6) for name in average)
    assert not torch.allclose(measured["head.weight"], model.state_dict()["head.weight"], atol=1e-4)


def test_layer_decay_has_timms_scales_and_the_schedule_keeps_them():
    """From the top: head, last block and norm, the other blocks, then patches, position embedding and class token."""
    model, optim = vit(), Optim(lr=1e-3, layer_decay=0.5)
    plan = resolve(Schedule(steps=100), optim, batch_size=512, num_samples=10)
    optimizer = models.optimizer(model, optim, lr=plan.lr)
    scheduler = lr_schedule(optimizer, plan)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for number in (0, 3, 50, 99):
        scheduler.step_update(number)
        rates = {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}
        top = rates["head.weight"]
        assert set(rates) == {name for name, _ in model.named_parameters()}
        for name, rate in rates.items():
            below = {"head": 0, "norm": 1}.get(name.split(".")[0], 4)
            below = 3 - int(name.split(".")[1]) if name.startswith("blocks.") else below
            assert rate == pytest.approx(top * 0.5**below), name
    decayed = {names[id(each)] for group in optimizer.param_groups if group["weight_decay"] for each in group["params"]}
    assert "blocks.0.mlp.fc1.weight" in decayed and not decayed & {"pos_embed", "cls_token", "norm.weight", "head.bias"}


def test_weight_decay_of_all_but_tokens():
    model = vit()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for decay_all in (False, True):
        groups = models.optimizer(model, Optim(decay_all=decay_all), lr=1e-3).param_groups
        decayed = {names[id(each)] for group in groups if group["weight_decay"] for each in group["params"]}
        assert ({"norm.weight", "head.bias"} <= decayed) == decay_all
        assert "head.weight" in decayed and not decayed & {"pos_embed", "cls_token"}


def step_alone(optimizer, model, number):
    draws = torch.Generator().manual_seed(number)
    torch.manual_seed(number)
    optimizer.zero_grad()
    model(torch.randn(16, 6, generator=draws)).square().mean().backward()
    optimizer.step()


def begin(name):
    """A tiny net, and its state under an optimiser of timm's; None for one that cannot be had here."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 4))
    try:
        optimizer = models.optimizer(model, Optim(name=name), lr=0.05)
    except UsageError:
        return None
    return TrainState(model=model, optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=False))


def test_every_optimiser_of_timms_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Also those that count their steps in their groups: LAMB and Adan, and Lookahead, which acts in each sixth."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # of one of them, which takes a minute
    names = {*timm.optim.list_optimizers(), "lookahead_adamw", "lookahead_lamb"}
    resumed = set()
    for name in names:
        straight, stopped = begin(name), begin(name)
        if straight is None:
            continue
        for number in range(14):
            step_alone(straight.optimizer, straight.model, number)
        for number in range(4):
            step_alone(stopped.optimizer, stopped.model, number)
        save(stopped.to_checkpoint(config={}, data="", world=1), tmp_path / f"{name}.pt")
        again = begin(name)
        again.restore(load(tmp_path / f"{name}.pt"))
        for number in range(4, 14):
            step_alone(again.optimizer, again.model, number)
        assert same(straight.model.state_dict(), again.model.state_dict()), name
        resumed.add(name)
    assert {"adamw", "sgd", "lamb", "adan", "lion", "lookahead_adamw", "lookahead_lamb"} <= resumed


def test_an_optimiser_of_second_derivatives_is_refused():
    with pytest.raises(UsageError, match=r"^optimiser 'adahessian': needs second derivatives"):
        models.optimizer(torch.nn.Linear(2, 2), Optim(name="adahessian"), lr=0.1)


def test_activations_computed_again_leave_gradients_equal():
    gradients = []
    for again in (False, True):
        model = vit(drop_path=0.3)
        if again:
            models.checkpoint_activations(model, Run(grad_checkpointing=True), "vit")
        torch.manual_seed(7)  # of drop path
        images, targets = batch(16)
        cross_entropy(model.train()(images), targets).backward()
        gradients.append({name: each.grad for name, each in model.named_parameters()})
    assert same(*gradients)


def test_activations_computed_again_where_that_cannot_be(folder, tmp_path, capsys):
    run = Run(grad_checkpointing=True)
    with pytest.raises(UsageError, match=r"run\.grad_checkpointing: resnet18 has batch norms.*run\.accumulate=2"):
        models.checkpoint_activations(timm.create_model("resnet18"), run, "resnet18")
    with pytest.raises(UsageError, match=r"timm has none for mine"):
        models.checkpoint_activations(torch.nn.Linear(1, 1), run, "mine")
    assert train(folder, tmp_path / "run", "--steps=2", "run.accumulate=3") == 2
    assert "run.accumulate 3: the batch of 8 on each process" in capsys.readouterr().err


def test_batch_norms_that_would_see_one_number(folder, tmp_path, capsys):
    words = ["--shards", str(folder), "--steps=1", "--batch-size=8", "--device=cpu", "--workers=0"]
    words += ["--model=test_resnet", "model.drop_path=0", "run.clean_images=0"]
    for size, parts, code in [(32, 8, 2), (64, 8, 0), (32, 4, 0)]:
        out = f"--out={tmp_path / f'{size}-{parts}'}"
        assert pretrain.run([*words, out, f"augment.size={size}", f"run.accumulate={parts}"]) == code, (size, parts)
        refusal = (
            "run.accumulate 8: one image at a time, and of 32 x 32 pixels a batch norm of test_resnet sees one place"
        )
        assert (refusal in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(("batch_size", "copies", "num"), [(24, 3, 40), (16, 3, 100), (8, 8, 5), (12, 5, 60)])
def test_repeated_augmentation_has_each_image_so_often_in_a_batch(batch_size, copies, num):
    sampler = Sampler(num, seed=2, shuffle=0, block=1, copies=copies, batch_size=batch_size)
    different = -(-batch_size // copies)
    seen = []
    for step in range(10):
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        numbers = sampler.numbers(positions)
        counts = np.unique(numbers, return_counts=True)[1]
        assert batch_size // different <= counts.min() and counts.max() <= copies
        slices = [sampler.numbers(part) for part in np.split(positions, 2)]  # of two ranks
        assert np.concatenate(slices).tolist() == numbers.tolist()
        seen += numbers[:different].tolist()
    plain = Sampler(num, seed=2, shuffle=0, block=1).numbers(np.arange(len(seen)))
    assert seen == plain.tolist(), "each epoch of different images is a permutation, as without copies"


def test_copies_lie_on_different_ranks():
    sampler = Sampler(100, seed=2, shuffle=0, block=1, copies=4, batch_size=32)
    slices = np.split(sampler.numbers(np.arange(32)), 4)
    assert all(sorted(part) == sorted(slices[0]) and len(set(part.tolist())) == 8 for part in slices)


def test_rates_at_milestones():
    plan = resolve(
        Schedule(steps=90, warmup_steps=0, milestones=(2 / 3, 1 / 3)), Optim(lr=0.2), batch_size=256, num_samples=9
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=plan.lr)
    scheduler, rates = lr_schedule(optimizer, plan), []
    for step in range(90):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


LENGTH = ["--steps=6", "model.drop_path=0.3", "run.checkpoint_every=3"]


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """The last checkpoint of a run without any of the settings."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert train(folder, out, *LENGTH) == 0
    return load(out / "last.pt")


@pytest.mark.parametrize("setting", [*SETTINGS, "everything"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(setting, plain, folder, tmp_path):
    words = [*SETTINGS.get(setting, EVERYTHING), *LENGTH]
    assert train(folder, tmp_path / "straight", *words) == 0
    assert train(folder, tmp_path / "stopped", *words, "--stop-after=4") == 0
    assert train(folder, tmp_path / "stopped", *words) == 0
    straight, stopped = load(tmp_path / "straight" / "last.pt"), load(tmp_path / "stopped" / "last.pt")
    assert same(straight.model, stopped.model) and same(straight.ema, stopped.ema) and straight.losses == stopped.losses
    assert bool(straight.ema) == (setting in ("ema", "everything"))
    changes_nothing = setting in ("ema", "grad_checkpointing")  # of the weights that are trained
    assert same(plain.model, straight.model) == changes_nothing


def test_a_run_that_was_killed_ends_as_one_that_was_not(folder, tmp_path):
    """With every setting, by SIGKILL in the middle of a step, after a checkpoint."""
    words = [*EVERYTHING, *LENGTH]
    script = (
        "import os, signal, sys\n"
        "from fracgen.train import pretrain\nfrom fracgen.train.engine.train_step import TrainStep\n"
        "gradients, parts = TrainStep._part_gradients, []\n"
        "def killed(self, *arguments):\n"
        "    parts.append(1)\n"
        "    if len(parts) == 4 * 4 + 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return gradients(self, *arguments)\n"
        "TrainStep._part_gradients = killed\n"
        "sys.exit(pretrain.run(sys.argv[1:]))\n"
    )
    arguments = ["--shards", folder, "--out", tmp_path / "killed", *TINY, *words]
    run_until_killed(script, arguments, tmp_path / "killed.txt")
    assert load(tmp_path / "killed" / "last.pt").step == 3
    assert train(folder, tmp_path / "killed", *words) == 0 and train(folder, tmp_path / "straight", *words) == 0
    killed, straight = load(tmp_path / "killed" / "last.pt"), load(tmp_path / "straight" / "last.pt")
    assert same(killed.model, straight.model) and same(killed.ema, straight.ema)


def test_the_moving_average_is_what_is_evaluated_and_exported(folder, tmp_path):
    out = tmp_path / "run"
    assert train(folder, out, "--steps=6", "optim.ema=0.5", "--lr=0.05") == 0
    last, exported = load(out / "last.pt"), load_file(out / "model" / "model.safetensors")
    assert same(last.ema, exported) and not same(last.model, exported)
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True)
    assert torch.equal(model.state_dict()["head.weight"], last.ema["head.weight"])


def test_fine_tuning_chooses_among_averages(tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    for split, label, number in np.ndindex(2, 2, 6):
        image = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8) + np.uint8(120 * label)
        place = tmp_path / "images" / ("train", "test")[split] / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    words = [word for word in TINY if not word.startswith("run.clean")]
    arguments = ["--checkpoint=none", f"--data={tmp_path / 'images'}", "--steps=6", "--protocol=published", "--lr=0.1"]
    assert finetune.run([*arguments, f"--out={tmp_path / 'run'}", *words, "optim.ema=0.5", "check_epochs=0.7"]) == 0
    best, last = load(tmp_path / "run" / "best.pt"), load(tmp_path / "run" / "last.pt")
    assert same(best.model, load_file(tmp_path / "run" / "model" / "model.safetensors")) and not best.ema
    if best.step == last.step:
        assert same(best.model, last.ema)
    assert not same(best.model, last.model)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["best"]["step"] == best.step


def test_two_processes_with_parts_and_copies_are_one(folder, tmp_path):
    words = ["--steps=4", "run.accumulate=2", "loader.repeated_augmentation=3", "optim.ema=0.5", "optim.name=sgd"]
    words += ["model.drop_path=0.0", "optim.layer_decay=0.7", "--precision=fp32", "mix.mixup=0.0", "mix.cutmix=0.0"]
    script = "import sys\nfrom fracgen.train import pretrain\nsys.exit(pretrain.run(sys.argv[1:]))\n"
    arguments = ["--shards", folder, "--out", tmp_path / "two", *TINY, *words]
    done = two_processes(script, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert train(folder, tmp_path / "one", *words) == 0
    one, two = load(tmp_path / "one" / "last.pt"), load(tmp_path / "two" / "last.pt")
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
    for state in ("model", "ema"):
        first, second = getattr(one, state), getattr(two, state)
        assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
