"""`python train/finetune.py`, as a user runs it: tiny models and folders of images at 32 pixels."""

import csv
import json
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from fracgen.train import finetune
from fracgen.train.config import load
from fracgen.train.data import loader
from fracgen.train.data.skipped import SkippedDataWarning
from fracgen.train.engine import checkpoint, metrics, results
from fracgen.train.engine.settings import Model, Schedule
from fracgen.train.finetune import Finetuning

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


def test_plain_timm_cuts_the_middle_out_where_its_own_models_squeeze(tmp_path):
    from fracgen.train.augment.evaluation import EvalTransform
    from fracgen.train.engine import model as models

    options = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    settings = Model(name="vit_medium_patch16_gap_384", drop_path=0.0, options=options)  # timm's own are squeezed
    stats = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    network = models.create(settings, num_classes=2, size=32)
    models.export(network, tmp_path / "model", size=32, tag="t", options=options, crop=0.8, **stats)
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    wide = Image.linear_gradient("L").resize((90, 50)).rotate(90).convert("RGB")
    assert torch.allclose(transform(wide), EvalTransform(size=32, crop=0.8, **stats)(wide), atol=1e-6)


def test_plain_timm_squeezes_where_the_run_did(tmp_path):
    write_images(tmp_path / "data" / "train", 4, size=lambda n: (48, 32))
    write_images(tmp_path / "data" / "test", 2, size=lambda n: (48, 32))
    out = tmp_path / "run"
    words = ["--steps=1", "--val-share=0", "--resize=32", "loader.squeeze=true", "eval_crop=1"]
    assert tune(tmp_path / "data", out, *words) == 0
    plain = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    wide = Image.linear_gradient("L").resize((48, 32)).rotate(90).convert("RGB")
    squeezed = wide.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(transform(wide), transform(squeezed)), "the evaluation squeezes first, and cuts nothing off"


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
