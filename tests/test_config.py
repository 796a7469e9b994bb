"""Settings of a run: defaults, files, options and overrides, and what is refused."""

from dataclasses import replace

import pytest

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import differences, to_plain, to_yaml
from fracgen.train.config import load
from fracgen.train.finetune import Finetuning
from fracgen.train.pretrain import Pretraining


def test_the_defaults_are_the_published_recipe():
    settings = Pretraining()
    assert settings.model.name == "" and settings.model.drop_path == 0.1  # "": vit_tiny_patch16_224
    optim, schedule, mix = settings.optim, settings.schedule, settings.mix
    assert (optim.name, optim.lr, optim.weight_decay, optim.clip) == ("adamw", 1e-3, 0.05, 0)
    assert (schedule.warmup_steps, schedule.warmup_lr, schedule.min_lr) == (5000, 1e-6, 1e-5)
    assert (mix.mixup, mix.cutmix, mix.prob, mix.switch, mix.smoothing) == (0.8, 1.0, 1.0, 0.5, 0.1)
    augment = settings.augment
    assert (augment.size, augment.scale, augment.hflip, augment.vflip, augment.erase) == (
        224,
        (0.08, 1.0),
        0.5,
        0.5,
        0.5,
    )
    assert augment.rand_augment == "rand-m9-n2-mstd0.5-inc1"
    assert settings.loader.batch_size == 256


def test_options_win_over_the_file_and_overrides_over_both(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("shards: here\noptim: {lr: 2e-3, weight_decay: 0}\nmodel:\n  options: {patch_size: 4}\n")
    settings = load(
        Pretraining, str(path), {"optim.lr": 0.5, "model.name": "resnet18"}, ["optim.lr=3e-4", "augment.mean=[0, 0, 1]"]
    )
    assert (settings.optim.lr, settings.optim.weight_decay) == (3e-4, 0.0)
    assert settings.model.name == "resnet18" and settings.model.options == {"patch_size": 4}
    assert settings.shards == "here" and settings.augment.mean == (0.0, 0.0, 1.0)


def test_a_written_configuration_is_read_back(tmp_path):
    settings = load(Pretraining, None, {}, ["loader.batch_size=64", "augment.scale=[0.2, 1]", "model.options.depth=2"])
    (tmp_path / "config.yaml").write_text(to_yaml(to_plain(settings)))
    assert load(Pretraining, str(tmp_path / "config.yaml"), {}, []) == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.rl=1"], "unknown key 'optim.rl', did you mean 'lr'"),
        (["optimm.lr=1"], "unknown key 'optimm', did you mean 'optim'"),
        (["steps=1"], "unknown key 'steps', did you mean schedule.steps; there are"),
        (["optim.lr=fast"], "optim.lr 'fast': must be a number"),
        (["loader.batch_size=2.5"], "loader.batch_size 2.5: must be a whole number"),
        (["loader.batch_size=true"], "must be a whole number"),
        (["run.compile=1"], "must be true or false"),
        (["run.device=tpu"], "run.device 'tpu': must be one of auto, cpu, cuda"),
        (["optim=3"], "optim 3: must be a mapping"),
        (["optim.lr=1", "optim.lr.x=3"], "optim is|lr is a value"),
        (["augment.scale=[1]"], "augment.scale .*: must be 2 values"),
        (["model.options=3"], "must be a mapping"),
        (["lr"], "an override is NAME=VALUE"),
        (["=3"], "an override is NAME=VALUE"),
        (["optim.lr=[1"], "not YAML"),
        (["optim.lr=1" + "0" * 400], "too large"),
    ],
)
def test_what_is_not_a_setting_is_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        load(Pretraining, None, {}, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("feed: {batch_size: 3}", r"run\.yaml: feed is loader now"),
        ("a: 1\na: 2\n", "given twice"),
        ("- 1\n", "must be a mapping"),
        ("optim: {lr: [}", "not YAML"),
        ("seed: 1", "'seed'"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load(Pretraining, str(path), {}, [])
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        load(Pretraining, str(tmp_path / "none.yaml"), {}, [])


def test_differences_name_what_changes_weights_only():
    old, new = (
        to_plain(load(Pretraining, None, {}, overrides))
        for overrides in (["run.log_every=1", "optim.lr=1"], ["run.log_every=2", "optim.lr=2", "loader.workers=7"])
    )
    assert differences(Pretraining, old, new) == ["optim.lr 2.0, was 1.0"]
    assert differences(Pretraining, old, old) == []


def test_what_a_group_does_not_give_is_as_the_protocol_has_it(tmp_path):
    """One value of a group leaves the others as fine-tuning has them, which is not as pre-training has them."""
    (tmp_path / "some.yaml").write_text("model: {drop_path: 0}\naugment: {size: 32}\n")
    default = Finetuning()
    loaded = load(Finetuning, str(tmp_path / "some.yaml"), {"optim.lr": 0.5, "loader.workers": 0}, [])
    assert loaded.model == replace(default.model, drop_path=0.0) and loaded.model.name == ""
    assert loaded.optim == replace(default.optim, lr=0.5) and loaded.optim.name == "sgd"
    assert loaded.augment == replace(default.augment, size=32) and loaded.augment.vflip == 0
    assert loaded.loader == replace(default.loader, workers=0) and loaded.loader.batch_size == 768


def test_a_text_setting_can_be_empty():
    assert load(Pretraining, None, {}, ["augment.rand_augment="]).augment.rand_augment == ""
    with pytest.raises(UsageError, match=r"loader\.workers '': must be a whole number"):
        load(Pretraining, None, {}, ["loader.workers="])
