"""`python train/finetune.py`, as a user runs it: tiny models and folders of images at 32 pixels."""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import two_processes
from PIL import Image

from fracgen.shards.errors import UsageError
from fracgen.train import finetune
from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.config import load
from fracgen.train.data import loader
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.data.skipped import SkippedDataWarning
from fracgen.train.data.splits import open_splits
from fracgen.train.engine import checkpoint, metrics, results
from fracgen.train.engine.settings import Model, Schedule
from fracgen.train.finetune import Finetuning
from fracgen.train.ranks import Ranks

ROOT = Path(__file__).parents[1]
MODEL = [f"model.options.{name}" for name in ("patch_size=8", "depth=2", "embed_dim=32", "num_heads=2")]
TINY = [
    "--model=vit_tiny_patch16_224",
    "--batch-size=8",
    "--device=cpu",
    "--precision=fp32",
    "--workers=0",
    "augment.size=32",
    *MODEL,
]
PLAIN = [each for each in TINY[1:] if each not in MODEL]
EASY = ["mix.mixup=0", "mix.cutmix=0", "augment.rand_augment=''", "augment.color_jitter=0", "augment.erase=0"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TIMES = ("seconds", "images_per_second", "run", "model")


def run(*arguments) -> int:
    return finetune.run([str(argument) for argument in arguments])


def tune(data, out, *arguments) -> int:
    return run("--data", data, "--out", out, *TINY, *arguments)


def write_images(folder, counts, classes=3, size=lambda n: (32, 32), mode="RGB", seed=0):
    """Noise about a colour of the class: learnt in part after a few steps."""
    generator = np.random.default_rng(seed)
    for label in range(classes):
        place = folder / f"class{label:02d}"
        place.mkdir(parents=True)
        for n in range(counts):
            width, height = size(n)
            center = np.array([40, 128, 215])[[label % 3, label // 3 % 3, (label + 1) % 3]]
            pixels = np.clip(generator.normal(center, 60, (height, width, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(place / f"{n:03d}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes: 24 images of each to train with, 7 to report on; not to be changed."""
    path = tmp_path_factory.mktemp("labelled")
    write_images(path / "train", 24)
    write_images(path / "test", 7, seed=1)
    return path


STRAIGHT = [
    "--steps=24",
    "run.log_every=4",
    "run.checkpoint_every=6",
    "check_epochs=0.5",
    "--lr=0.5",
    "--val-share=0.2",
]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A finished run of 24 steps, with a check after each 4th; not to be changed."""
    out = tmp_path_factory.mktemp("run") / "straight"
    assert tune(data, out, *STRAIGHT) == 0
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A timm folder of a tiny net for five classes."""
    from fracgen.train.engine import model as models

    torch.manual_seed(5)
    options = yaml.safe_load("{patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}")
    network = models.create(Model(name="vit_tiny_patch16_224", options=options), num_classes=5, size=32)
    folder = tmp_path_factory.mktemp("trained") / "model"
    models.export(network, folder, size=32, mean=(0.5,) * 3, std=(0.5,) * 3, tag="t", options=options)
    return folder.parent


def results_of(out):
    values = json.loads((out / "results.json").read_text())
    return {**values.pop("outcome"), **values}


def lines(out):
    """The metrics, without times."""
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in metrics.read(out / "metrics.jsonl")
    ]


def without_times(values):
    return {name: value for name, value in values.items() if name not in TIMES}


def same_weights(one, other, name="last.pt"):
    one, other = checkpoint.load(one / name), checkpoint.load(other / name)
    assert one.step == other.step and one.scores == other.scores and one.model.keys() == other.model.keys()
    assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)


def same_runs(one, other):
    same_weights(one, other)
    same_weights(one, other, "best.pt")
    assert without_times(results_of(one)) == without_times(results_of(other))
    for file in ("confusion.csv", "model/model.safetensors", "config.yaml"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    assert config_without_metrics(one) == config_without_metrics(other)


def config_without_metrics(run):
    """Of an export; those of one seed of several are the mean of all."""
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["fracgen"].pop("metrics")
    return config


def test_a_run_leaves_what_it_promises(straight):
    assert {path.name for path in straight.iterdir()} == {
        ".lock", "config.yaml", "metrics.jsonl", "curves.png", "last.pt", "previous.pt", "best.pt", "model",
        "results.json", "confusion.png", "confusion.csv",
    }  # fmt: skip
    values = results_of(straight)
    assert values["protocol"] == "honest" and values["split"] == "test" and values["steps"] == 24
    assert values["chosen_on"] == "the validation split" and values["best"]["chosen_on"] == "val"
    assert values["classes"] == ["class00", "class01", "class02"] and values["start"] == "scratch"
    assert values["last"]["images"] == values["best"]["images"] == 21
    for which in ("last", "best"):
        assert values[f"test_accuracy_{which}"] == values[which]["top1"]
        assert values[which]["top5"] is None and set(values[which]["per_class"]) == set(values["classes"])
        assert statistics.mean(values[which]["per_class"].values()) == pytest.approx(values[which]["top1"], abs=1e-5)
    rows = list(csv.reader((straight / "confusion.csv").open()))
    assert sum(int(rows[n + 1][n + 1]) for n in range(3)) / 21 == pytest.approx(values["best"]["top1"], abs=1e-5)


def test_the_epoch_is_chosen_on_the_validation_split(straight):
    checks = [
        (line["step"], line["val_accuracy"])
        for line in metrics.read(straight / "metrics.jsonl")
        if "val_accuracy" in line
    ]
    assert [step for step, _ in checks] == [4, 8, 12, 16, 20, 24]
    most = max(accuracy for _, accuracy in checks)
    first = next(step for step, accuracy in checks if accuracy == most)
    values = results_of(straight)["best"]
    assert values["step"] == first and values["val_accuracy"] == pytest.approx(most, abs=1e-6)
    assert first < 24, "or nothing is shown by this"
    assert checkpoint.load(straight / "best.pt").step == first
    assert not any("test_accuracy" in line for line in metrics.read(straight / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("protocol", "expected"), [("honest", ["val"] * 3 + ["test"] * 2), ("published", ["test"] * 5)]
)
def test_which_split_is_looked_at_when(data, tmp_path, monkeypatch, protocol, expected):
    seen, batches = [], loader.eval_batches

    def watched(source, **rest):
        seen.append("test" if len(source) == 21 else "val")
        return batches(source, **rest)

    monkeypatch.setattr(loader, "eval_batches", watched)
    options = ["--steps=6", "check_epochs=0.5", "--per-class=12"]
    assert tune(data, tmp_path / "run", *options, f"--protocol={protocol}", "--val-share=0.1") == 0
    assert seen == expected


def test_the_published_protocol_is_labelled(data, tmp_path, capsys):
    assert tune(data, tmp_path / "run", "--steps=6", "--protocol=published", "--json", "--lr=0.3") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["chosen_on"] == "the test split itself, as published" and "val_accuracy_best" not in shown
    values = results_of(tmp_path / "run")
    assert values["protocol"] == "published" and values["best"]["chosen_on"] == "test"
    checks = [
        line["test_accuracy"] for line in metrics.read(tmp_path / "run" / "metrics.jsonl") if "test_accuracy" in line
    ]
    for accuracy in (values["best"]["top1"], values["best"]["test_accuracy"]):
        assert accuracy == pytest.approx(max(checks), abs=1e-6)
    assert "72 images of 3 classes" in values["data"] and "held out" not in values["data"]


@pytest.mark.parametrize(
    "options",
    [[], ["--augment=timm", "--workers=2"], ["--loader=stream", "--workers=1"], ["--precision=bf16"]],
    ids=str,
)
def test_a_paused_run_goes_on_bit_for_bit(data, tmp_path, options, straight):
    if options:
        straight = tmp_path / "straight"
        assert tune(data, straight, *STRAIGHT, *options) == 0
    for stop_after in (4, 5, 10, 20, 0):
        assert tune(data, tmp_path / "paused", *STRAIGHT, *options, f"--stop-after={stop_after}") == 0
        assert (tmp_path / "paused" / "results.json").exists() == (stop_after == 0)
    same_runs(straight, tmp_path / "paused")
    names = ("val_accuracy", "lr", "samples")
    every_fourth = [line for line in lines(tmp_path / "paused") if line["step"] % 4 == 0]
    for one, other in zip(lines(straight), every_fourth, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
        if one["step"] in (4, 16, 24):  # elsewhere the mean of the losses begins at the pause
            assert one["loss"] == other["loss"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(data, tmp_path, straight):
    arguments = ["--data", data, "--out", tmp_path / "run", *TINY, *STRAIGHT, "run.checkpoint_every=2"]
    command = [sys.executable, str(ROOT / "train" / "finetune.py"), *map(str, arguments)]
    as_here = {**ENVIRONMENT, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=as_here)
    for _ in range(1200):
        if (tmp_path / "run" / "last.pt").exists():
            break
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert run(*arguments) == 0
    same_weights(straight, tmp_path / "run")
    same_weights(straight, tmp_path / "run", "best.pt")
    assert results_of(straight)["best"] == results_of(tmp_path / "run")["best"]


def test_going_on_with_another_number_of_threads_is_told(data, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=4") == 0
    try:
        torch.set_num_threads(threads + 1)
        assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=8") == 0
        assert f"goes on at step 4 with {threads + 1} CPU threads, not {threads}" in capsys.readouterr().err
        assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=12") == 0
        assert "goes on at step 8\n" in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("at", [4, 12])
@pytest.mark.parametrize("which", ["last.pt", "best.pt"])
def test_killed_at_any_save_the_same_epoch_is_chosen(data, tmp_path, straight, monkeypatch, at, which):
    """As if killed while a checkpoint of step `at` is written: the file is as before."""
    save = checkpoint.save

    def killed(state, path):
        if state.step == at and path.name == which:
            raise KeyboardInterrupt
        save(state, path)

    every = [*STRAIGHT, "run.checkpoint_every=4"]
    monkeypatch.setattr(checkpoint, "save", killed)
    code = tune(data, tmp_path / "run", *every)
    monkeypatch.setattr(checkpoint, "save", save)
    assert code == 130 or which == "best.pt"
    assert tune(data, tmp_path / "run", *every) == 0
    same_weights(straight, tmp_path / "run")
    same_weights(straight, tmp_path / "run", "best.pt")
    assert results_of(straight)["best"] == results_of(tmp_path / "run")["best"]
    assert [line.get("val_accuracy") for line in lines(straight)] == [
        line.get("val_accuracy") for line in lines(tmp_path / "run")
    ]


def test_a_finished_run_has_nothing_to_do(data, straight, monkeypatch):
    before = {name: (straight / name).read_bytes() for name in ("results.json", "last.pt", "best.pt")}
    monkeypatch.setattr("fracgen.train.engine.train_step.TrainStep.__call__", None)
    monkeypatch.setattr("fracgen.train.engine.evaluate.evaluate", None)
    assert tune(data, straight, *STRAIGHT) == 0
    assert {name: (straight / name).read_bytes() for name in before} == before


def test_results_of_fewer_steps_are_not_told_for_more(data, tmp_path, monkeypatch):
    """As if killed while a run that was made longer is scored at its end."""
    out, longer = tmp_path / "run", [*STRAIGHT, "--steps=12", "run.checkpoint_every=0"]
    assert tune(data, out, *STRAIGHT, "--steps=4") == 0 and results_of(out)["steps"] == 4
    with monkeypatch.context() as patched:
        patched.setattr("fracgen.train.engine.model.export", interrupted)
        assert tune(data, out, *longer, "--allow-changes") == 130
    assert checkpoint.load(out / "last.pt").step == 12
    assert tune(data, out, *longer) == 0
    assert results_of(out)["steps"] == 12


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_finished_run_whose_state_is_gone_is_left_alone(data, straight, tmp_path, capsys):
    out = Path(shutil.copytree(straight, tmp_path / "run"))
    (out / "last.pt").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert tune(data, out, *STRAIGHT, "--lr=0.1") == 2
    assert "holds a model, and no last.pt to go on from; give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_told_without_its_best_weights_and_model_is_made_again(data, straight, tmp_path, capsys):
    out = Path(shutil.copytree(straight, tmp_path / "run"))
    (out / "best.pt").rename(tmp_path / "best.pt")
    assert tune(data, out, *STRAIGHT) == 0
    assert str(straight) not in capsys.readouterr().out, "the run was moved"
    shutil.rmtree(out / "model")
    assert tune(data, out, *STRAIGHT) == 1
    assert "best.pt: is gone" in capsys.readouterr().err
    (tmp_path / "best.pt").rename(out / "best.pt")
    assert tune(data, out, *STRAIGHT) == 0
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("at", "changes", "kept"),
    [(8, [], True), (8, ["--lr=0.3"], False), (12, ["--lr=0.3"], True), (12, ["eval_crop=0.9"], False)],
)
def test_weights_of_steps_that_other_settings_took_are_not_chosen(data, tmp_path, monkeypatch, at, changes, kept):
    """As if killed in or after the epoch that was the best, at step 8, and gone on with other settings."""
    save, out = checkpoint.save, tmp_path / "run"

    def killed(state, path):
        if state.step == at and path.name == "last.pt":
            raise KeyboardInterrupt
        save(state, path)

    every = [*STRAIGHT, "run.checkpoint_every=4", "run.log_every=100"]
    monkeypatch.setattr("fracgen.train.engine.evaluate.Scores.top1", property(lambda self: next(accuracies)))
    accuracies = iter([0.1, 0.9, 0.2])
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", killed)
        assert tune(data, out, *every) == 130
    assert checkpoint.load(out / "last.pt").step == at - 4 and checkpoint.load(out / "best.pt").step == 8
    accuracies = iter([0.5] * 20)
    assert tune(data, out, *every, *changes, "--allow-changes") == 0
    best = checkpoint.load(out / "best.pt").scores["accuracy"]
    assert best == (0.9 if kept else 0.5)


@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
@pytest.mark.parametrize("feed", [["--workers=0", "loader.mode=memory"], ["--workers=1", "loader.mode=stream"]])
def test_two_processes_are_one(data, tmp_path, capsys, feed):
    """Equal weights and buffers on both ranks, each image scored or skipped once; the scores those of one process."""
    data = Path(shutil.copytree(data, tmp_path / "data"))
    (data / "test" / "class00" / "999.png").write_bytes(b"no picture")
    script = (
        "import sys, torch, torch.distributed as dist\n"
        "from fracgen.train import finetune\n"
        "from fracgen.train.engine import evaluate as scoring\n"
        "score = scoring.evaluate\n"
        "def checked(model, batches, **rest):\n"
        "    batches = list(batches)\n"
        "    open(f'seen{dist.get_rank()}', 'a').write(f'{sum(len(labels) for _, labels in batches)}\\n')\n"
        "    found = score(model, batches, **rest)\n"
        "    mine = torch.cat([v.double().flatten() for v in model.state_dict().values()])\n"
        "    both = [torch.empty_like(mine) for _ in range(2)]\n"
        "    dist.all_gather(both, mine)\n"
        "    assert torch.equal(*both)\n"
        "    return found\n"
        "scoring.evaluate = checked\n"
        "sys.exit(finetune.run(sys.argv[1:]))\n"
    )
    arguments = ["--data", data, "--out", tmp_path / "run", *PLAIN, "--model=resnet10t", *STRAIGHT, "--skip-bad", *feed]
    done = two_processes(script, [*arguments, "--steps=8", "--lr=0.1"], tmp_path)
    assert done.returncode == 0, done.stderr
    # two checks on 15 held-out images, then 21 test images twice
    seen = [(tmp_path / f"seen{rank}").read_text().split() for rank in range(2)]
    assert seen == [["8", "8", "11", "11"], ["7", "7", "10", "10"]]
    values = results_of(tmp_path / "run")
    assert values["last"]["images"] == values["best"]["images"] == 21
    assert values["skipped"] == {"image": 1}, "which both ranks met, or the second alone"
    assert checkpoint.load(tmp_path / "run" / "last.pt").world == 2
    # the same weights, scored by one process
    assert run(*arguments, "--steps=8", "--lr=0.1") == 2
    assert "1 processes, were 2" in capsys.readouterr().err
    assert run(*arguments, "--steps=8", "--lr=0.1", "--allow-changes") == 0
    alone = results_of(tmp_path / "run")
    assert [alone[which] for which in ("last", "best")] == [values[which] for which in ("last", "best")]


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_more_processes_than_images(data, mode):
    test = open_splits(str(data), val_share=0.0).test
    alone = Ranks(rank=0, world=1, device=torch.device("cpu"))
    settings = LoaderSettings(mode=mode, workers=1, batch_size=8)
    source = loader.TrainLoader(test, settings, seed=0, ranks=alone).source
    transform = EvalTransform(size=32, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    both = {"transform": transform.on_device, "picture_transform": transform}
    each = [loader.eval_batches(source, ranks=replace(alone, rank=rank, world=30), **both) for rank in range(30)]
    assert [sum(len(labels) for _, labels in batches) for batches in each] == [1] * 21 + [0] * 9


def test_seeds_are_told_together(data, tmp_path, capsys):
    assert tune(data, tmp_path / "runs", "--steps=8", "--seeds=3", "--seed=5", "--lr=0.3", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "runs" / "results.json").read_text())
    assert shown["seeds"] == [5, 6, 7] and shown["ending"] == "finished"
    each = [results_of(tmp_path / "runs" / f"seed-{seed}") for seed in (5, 6, 7)]
    for name in ("test_accuracy_last", "test_accuracy_best", "val_accuracy_best"):
        values = [one[name] for one in each]
        assert shown[name]["each"] == values
        assert shown[name]["mean"] == round(statistics.mean(values), 4)
        assert shown[name]["std"] == round(statistics.stdev(values), 4)
    assert len({one["fingerprint"] for one in each}) == 3, "each seed carves a split of its own"
    capsys.readouterr()
    assert tune(data, tmp_path / "runs", "--steps=8", "--seeds=3", "--seed=5", "--lr=0.3") == 0
    text = capsys.readouterr().out
    assert f"{shown['test_accuracy_best']['mean']:.4f} +- {shown['test_accuracy_best']['std']:.4f}" in text
    # a seed of several is the run of that seed alone
    assert tune(data, tmp_path / "alone", "--steps=8", "--seed=6", "--lr=0.3") == 0
    same_runs(tmp_path / "runs" / "seed-6", tmp_path / "alone")


def test_seeds_that_are_stopped_are_no_results(data, tmp_path, capsys):
    assert tune(data, tmp_path / "runs", "--steps=8", "--seeds=2", "--stop-after=2", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ending"] == "stopped" and not [name for name in shown if "accuracy" in name]


def test_several_seeds_do_not_mix_with_the_run_of_one(data, straight, capsys, tmp_path):
    assert tune(data, straight, *STRAIGHT, "--seeds=2") == 2
    assert "the run of one seed" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert tune(data, tmp_path / "file", "--seeds=2", "--steps=2") == 2
    assert "is a file" in capsys.readouterr().err


def test_summary():
    runs = [
        {"start": "scratch", "seed": n, "run": str(n), "ending": "finished", "x_accuracy_best": n / 10}
        for n in (1, 2, 4)
    ]
    assert results.summary(runs)["x_accuracy_best"] == {"mean": 0.2333, "std": 0.1528, "each": [0.1, 0.2, 0.4]}
    assert results.in_words(results.summary(runs))["x_accuracy_best"] == "0.2333 +- 0.1528"


def test_plain_timm_loads_the_model_and_says_the_same(data, straight):
    model = timm.create_model(f"local-dir:{straight}/model", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    right = 0
    with torch.no_grad():
        for label in range(3):
            for path in sorted((data / "test" / f"class{label:02d}").iterdir()):
                right += int(model(transform(Image.open(path))[None]).argmax()) == label
    assert right / 21 == pytest.approx(
        results_of(straight)["best"]["top1"], abs=1.5 / 21
    )  # resized on the device: levels may be 1 off
    best = checkpoint.load(straight / "best.pt").model
    assert all(torch.equal(value, best[key]) for key, value in model.state_dict().items())
    config = json.loads((straight / "model" / "config.json").read_text())["pretrained_cfg"]
    assert config["crop_pct"] == 0.875 and config["mean"] == [0.485, 0.456, 0.406]
    names = model.pretrained_cfg["label_names"]
    assert list(names) == results_of(straight)["classes"] == ["class00", "class01", "class02"]
    assert timm.data.CustomDatasetInfo(names).index_to_label_name(2) == "class02"


def test_it_learns(data, tmp_path):
    assert tune(data, tmp_path / "run", "--steps=120", "--lr=1", *EASY, "model.drop_path=0") == 0
    assert results_of(tmp_path / "run")["test_accuracy_best"] >= 0.6  # chance is 0.33


def test_a_checkpoint_is_where_it_begins(data, trained, tmp_path, capsys):
    assert run("--checkpoint", trained, "--data", data, "--out", tmp_path / "run", *PLAIN, "--steps=2") == 0
    assert "init      " + f"{trained}: head: new (3 classes), all other weights loaded" in capsys.readouterr().err
    loaded = results_of(tmp_path / "run")["loaded"]
    assert loaded["missing"] == loaded["unexpected"] == ["head.bias", "head.weight"]
    assert results_of(tmp_path / "run")["start"] == str(trained)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["name"] == "vit_tiny_patch16_224" and config["model"]["options"]["depth"] == 2
    # another checkpoint in its place is another run
    assert tune(data, tmp_path / "run", "--steps=2") == 2
    assert "another run" in capsys.readouterr().err


def test_another_resolution_and_a_kept_head(trained, tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 4, classes=5)
    begin = ["--checkpoint", trained, "--data", tmp_path / "set", "--batch-size=8", "--device=cpu", "--workers=0"]
    assert run(*begin, "--out", tmp_path / "run", "--steps=1", "augment.size=48", "--keep-head", "--val-share=0") == 0
    assert "head kept (pos_embed resized)" in capsys.readouterr().err
    values = results_of(tmp_path / "run")
    assert values["loaded"]["kept_head"] and "best" not in values and "last" not in values
    assert timm.create_model(f"local-dir:{tmp_path}/run/model", pretrained=True).pos_embed.shape[1] == 37


def test_a_fine_tuned_run_begins_another(data, straight, tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 4, classes=2)
    command = ["--checkpoint", straight, "--data", tmp_path / "set", "--batch-size=2", "--device=cpu", "--workers=0"]
    assert run(*command, "--out", tmp_path / "run", "--steps=1", "augment.size=32") == 0
    assert "head: new (2 classes)" in capsys.readouterr().err


def test_top5_where_there_are_more_classes(tmp_path):
    write_images(tmp_path / "set" / "train", 4, classes=7)
    write_images(tmp_path / "set" / "test", 3, classes=7, seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert values["best"]["top1"] <= values["best"]["top5"] <= 1 and values["test_top5_best"] == values["best"]["top5"]


def test_val_beside_train_alone_is_reported_on(tmp_path):
    write_images(tmp_path / "set" / "train", 12)
    write_images(tmp_path / "set" / "val", 5, seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert values["split"] == "test" and values["last"]["images"] == 15 and values["best"]["chosen_on"] == "val"


def test_without_a_test_split_the_validation_split_is_told(tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 12)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert (
        values["split"] == "val" and "val_accuracy_last" in values and not [n for n in values if n.startswith("test")]
    )
    assert tune(tmp_path / "set", tmp_path / "other", "--steps=3", "--protocol=published") == 2
    assert "no test split to choose on" in capsys.readouterr().err


def test_images_of_many_sizes(tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 6, size=lambda n: (40 + n, 36 + 2 * n))
    write_images(tmp_path / "set" / "test", 3, size=lambda n: (50 - n, 36), seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3", "--workers=2") == 0
    assert "stream: images differ in size" in capsys.readouterr().err
    assert results_of(tmp_path / "run")["last"]["images"] == 9
    assert tune(tmp_path / "set", tmp_path / "none", "--steps=3") == 2
    assert "--resize N" in capsys.readouterr().err
    assert tune(tmp_path / "set", tmp_path / "resized", "--steps=3", "--resize=32") == 0
    assert "memory" in capsys.readouterr().err and results_of(tmp_path / "resized")["last"]["images"] == 9


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "I;16"])
def test_images_of_other_modes(tmp_path, mode):
    write_images(tmp_path / "set" / "train", 4)
    for path in (tmp_path / "set" / "train" / "class01").iterdir():
        image = Image.open(path)
        (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path)
    write_images(tmp_path / "set" / "test", 2, mode="L", seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=1") == 0
    assert results_of(tmp_path / "run")["last"]["images"] == 6


def bad_set(folder, kind):
    write_images(folder / "train", 4)
    write_images(folder / "test", 2, seed=1)
    if kind == "broken":
        (folder / "train" / "class01" / "002.png").write_bytes(b"no picture")
    if kind == "broken test":
        path = folder / "test" / "class01" / "001.png"
        path.write_bytes(path.read_bytes()[:60])
    if kind == "empty class":
        (folder / "train" / "class03").mkdir()
    if kind == "one class":
        for each in ("train/class01", "train/class02", "test/class01", "test/class02"):
            (folder / each).rename(folder / each.replace("/", "-"))
    if kind == "a class more":
        write_images(folder / "more", 2, classes=4)
        (folder / "more" / "class03").rename(folder / "test" / "class03")
    if kind == "a class less":
        (folder / "test" / "class01").rename(folder / "gone")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("broken", r"train/class01/002\.png: no JPEG, PNG"),
        ("broken test", r"test/class01/001\.png"),
        ("empty class", "train/class03: a class without images"),
        ("one class", "only one class, 'class00'"),
        ("a class more", "has also 'class03'"),
        ("a class less", "lacks 'class01'"),
    ],
)
@pytest.mark.parametrize("feed", [["--loader=memory"], ["--loader=stream", "--workers=1"]], ids=["memory", "stream"])
def test_bad_sets_are_one_line_and_exit_code_2(tmp_path, capsys, kind, message, feed):
    bad_set(tmp_path / "set", kind)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=2", *feed) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, err[-1]) and err[-1].startswith("finetune: ") and "Traceback" not in "".join(err)


@pytest.mark.parametrize("feed", [["--loader=memory"], ["--loader=stream", "--workers=1"]], ids=["memory", "stream"])
@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
def test_what_is_broken_is_counted_where_asked_for(tmp_path, feed):
    bad_set(tmp_path / "set", "broken")
    bad_set(tmp_path / "other", "broken test")
    (tmp_path / "other" / "test" / "class01" / "001.png").rename(tmp_path / "set" / "test" / "class01" / "001.png")
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3", "--skip-bad", "--val-share=0", *feed) == 0
    values = results_of(tmp_path / "run")
    assert values["skipped"] == {"image": 2} and values["last"]["images"] == 5


def test_no_split_is_another_one(data, tmp_path):
    (tmp_path / "link").symlink_to(data / "train")
    for split in ("val", "test"):
        with pytest.raises(UsageError, match=rf"--{split} .*train: the images that are trained on"):
            open_splits(str(data), **{split: str(tmp_path / "link")})
    with pytest.raises(UsageError, match=r"--val .*test: .* reported on too; leave .*--protocol published"):
        open_splits(str(data), val=f"{data}/./test")


def test_folders_of_classes_that_are_no_split_are_told(tmp_path):
    for name in ("train", "dev", "testing"):
        write_images(tmp_path / name, 2)
    (tmp_path / "labels").mkdir()
    assert "not read: 'dev', 'testing' (give" in open_splits(str(tmp_path)).description
    assert "not read: 'dev' (give" in open_splits(str(tmp_path), test=str(tmp_path / "testing")).description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=nowhere"], "no such file or folder"),
        (["--model=vit_tiny_patch8_224"], "did you mean"),
        (["--batch-size=7"], "make it even"),
        (["--num-classes=7"], "3 classes"),
        (["--val-share=1"], "--val-share 1"),
        (["--per-class=50"], "50 images per class"),
        (["--seeds=0"], "seeds"),
        (["--epochs=0"], "epochs 0"),
        (["--steps=2", "--epochs=1"], "give one of them"),
        (["eval_crop=0"], "eval_crop 0"),
        (["check_epochs=0"], "check_epochs 0"),
        (["--protocol=best"], "best"),
        (["checkpont=x"], "did you mean 'checkpoint'"),
        (["--val=nowhere"], "nowhere"),
        (
            ["--data=torch/cifar10O"],
            "no such set (AssertionError: Unknown torchvision dataset cifar10o), did you mean 'torch/cifar10'?",
        ),
        (["--lr=0"], "--lr 0.0: must be"),
        (["--feed=stream"], "--loader memory or --loader stream now"),
        (["feed.mode=stream"], "feed.mode is loader.mode now"),
        (["--tensorboard"], "is --log tensorboard now"),
        (["--log=mlflow"], "mlflow"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(data, tmp_path, capsys, arguments, message):
    assert tune(data, tmp_path / "run", *arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1] and "Traceback" not in "".join(err)
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_missing_words_and_folders(data, tmp_path, capsys):
    assert run("--out", tmp_path / "run") == 2
    assert "--data" in capsys.readouterr().err
    assert run("--data", data) == 2
    assert "--out" in capsys.readouterr().err
    assert tune(tmp_path / "none", tmp_path / "run") == 2
    assert "no such folder" in capsys.readouterr().err


def test_another_architecture_is_told_by_its_keys(data, trained, tmp_path, capsys):
    weights = timm.create_model(f"local-dir:{trained}/model", pretrained=True).state_dict()
    torch.save({"model": weights}, tmp_path / "w.pth")
    command = ["--checkpoint", tmp_path / "w.pth", "--data", data, "--out", tmp_path / "run", "--device=cpu"]
    assert run(*command, "--batch-size=8", "--model=resnet10t", "augment.size=32", "--workers=0") == 2
    err = capsys.readouterr().err
    assert "another architecture" in err and "missing bn1.bias" in err and "unexpected blocks.0" in err


def test_a_run_that_has_not_ended_is_no_start(data, trained, tmp_path, capsys):
    assert tune(data, tmp_path / "run", "--steps=4", "--stop-after=2") == 0
    assert tune(data, tmp_path / "next", "--checkpoint", tmp_path / "run") == 2
    assert "has not ended" in capsys.readouterr().err


def test_damaged_or_lost_best_weights_are_told(data, straight, tmp_path, capsys):
    assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=8") == 0
    whole = (tmp_path / "run" / "best.pt").read_bytes()
    (tmp_path / "run" / "best.pt").write_bytes(whole[:-100])
    assert tune(data, tmp_path / "run", *STRAIGHT) == 1
    assert "best.pt: no whole checkpoint" in capsys.readouterr().err
    (tmp_path / "run" / "best.pt").unlink()
    assert tune(data, tmp_path / "run", *STRAIGHT) == 1
    assert "best.pt: is gone" in capsys.readouterr().err
    (tmp_path / "run" / "best.pt").write_bytes(whole)
    assert tune(data, tmp_path / "run", *STRAIGHT) == 0
    same_runs(straight, tmp_path / "run")


def test_changes_are_refused_or_allowed(data, tmp_path, capsys):
    begin = ["--steps=8", "check_epochs=0.25", "--stop-after=4"]
    assert tune(data, tmp_path / "run", *begin) == 0
    assert tune(data, tmp_path / "run", "--steps=8", "check_epochs=0.25", "--lr=0.5") == 2
    assert "optim.lr 0.5, was 0.01" in capsys.readouterr().err
    assert tune(data, tmp_path / "run", "--steps=8", "check_epochs=0.25", "--lr=0.5", "--allow-changes") == 0
    assert tune(data, tmp_path / "run", "--resume=never") == 2


def test_a_best_of_other_images_counts_for_nothing(data, tmp_path):
    """With --allow-changes: what was chosen on the validation split is not what is best on the test split."""
    assert tune(data, tmp_path / "run", "--steps=8", "check_epochs=0.25", "--stop-after=4") == 0
    path = tmp_path / "run" / "best.pt"
    before = checkpoint.load(path)
    checkpoint.save(checkpoint.Checkpoint(**{**vars(before), "scores": {"step": 4, "accuracy": 2.0}}), path)
    assert tune(data, tmp_path / "run", "--steps=8", "check_epochs=0.2", "--protocol=published", "--allow-changes") == 0
    assert results_of(tmp_path / "run")["best"]["test_accuracy"] <= 1


def test_a_full_disk_is_one_line(data, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    assert tune(data, tmp_path / "run", "--steps=2") == 1
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert tune(data, tmp_path / "run", "--steps=2") == 1
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert tune(data, tmp_path / "run", "--steps=2") == 0


def test_benchmark_measures_three_rates(data, capsys, monkeypatch):
    monkeypatch.setattr("fracgen.train.engine.benchmark._SECONDS", 0.05)
    assert run("--data", data, *TINY, "--benchmark", "--json", "--seeds=2") == 0
    measured = json.loads(capsys.readouterr().out)
    assert (
        min(measured[f"{name}_images_per_second"] for name in ("model_only", "loader_only", "data_only", "end_to_end"))
        > 0
    )


def test_help_needs_no_torch():
    code = "import sys, fracgen.train.finetune; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_defaults_are_the_published_recipe():
    settings = Finetuning()
    assert (settings.optim.name, settings.optim.lr, settings.optim.momentum) == ("sgd", 0.01, 0.9)
    assert settings.optim.weight_decay == 1e-4 and settings.loader.batch_size == 768 and settings.eval_crop == 0.875
    assert settings.augment.mean == (0.485, 0.456, 0.406) and settings.augment.std == (0.229, 0.224, 0.225)
    assert (settings.augment.hflip, settings.augment.vflip, settings.augment.erase) == (0.5, 0.0, 0.25)
    assert settings.schedule == Schedule(warmup_steps=0, warmup_epochs=10.0)
    assert settings.protocol == "honest" and results.CONFUSION == "confusion.csv"


def test_one_setting_leaves_the_others_of_its_group():
    settings, defaults = (
        load(Finetuning, None, {"optim.lr": 0.5}, ["augment.size=32", "loader.workers=0"]),
        Finetuning(),
    )
    assert settings.optim.name == "sgd" and settings.optim.weight_decay == 1e-4 and settings.optim.lr == 0.5
    assert settings.augment.mean == defaults.augment.mean and settings.augment.vflip == 0
    assert settings.loader.batch_size == 768 and settings.model.name == ""


OF_THE_PAPER = ("cars", "cifar10", "cifar100", "flowers", "imagenet100", "imagenet1k")


@pytest.mark.parametrize("path", [ROOT / "examples" / f"finetune-{name}.yaml" for name in OF_THE_PAPER])
def test_the_papers_examples_load_and_say_how_they_are_run(path):
    settings = load(Finetuning, str(path), {}, [])
    assert f"--config examples/{path.name}" in path.read_text()
    if path.stem == "finetune-imagenet1k":
        assert (settings.optim.name, settings.optim.lr, settings.optim.weight_decay) == ("adamw", 1e-3, 0.05)
        assert settings.schedule.epochs == 300 and settings.schedule.warmup_epochs == 10 and settings.keep_head
    else:
        assert settings.optim == Finetuning().optim and settings.augment == Finetuning().augment
        assert settings.schedule.epochs == 1000 and settings.loader.batch_size == 768 and not settings.keep_head


def test_our_warnings_are_a_line(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert finetune.run(["--help"]) == 0
    assert (
        warnings.formatwarning("skipped: a.png:\ncut off", SkippedDataWarning, "x.py", 1) == "skipped: a.png: cut off\n"
    )
    assert "x.py:1: UserWarning" in warnings.formatwarning("other", UserWarning, "x.py", 1)
