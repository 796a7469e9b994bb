"""The YAML files of training in `examples/`: each says where its numbers are from, and takes a step in the small."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fracgen.train import finetune, pretrain
from fracgen.train.augment.draws import draw_crops
from fracgen.train.config import load
from fracgen.train.engine.schedule import resolve
from fracgen.train.experiments.finetuning import Finetuning
from fracgen.train.pretrain import Pretraining

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted([*(ROOT / "examples").glob("pretrain-*.yaml"), *(ROOT / "examples").glob("finetune-*.yaml")])
OTHERS = sorted([*(ROOT / "examples").glob("mae-*.yaml"), *(ROOT / "examples").glob("dyck-*.yaml")])
LARGE = [path for path in EXAMPLES if re.search("vitb|resnet|convnext", path.stem)]
SMALL_MODELS = {
    "resnet": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "convnext": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "vit": {"patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2},
}
SMALL = ["--steps=2", "--batch-size=6", "--workers=0", "--device=cpu", "augment.size=32", "run.compile=false"]


def settings_of(path):
    kind = Pretraining if path.stem.startswith("pretrain") else Finetuning
    return load(kind, str(path), {}, [])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders of twelve images."""
    path, rng = tmp_path_factory.mktemp("labelled") / "images", np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 3):
        place = path / ("train", "test")[split] / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_takes_steps_in_the_small(path, images, folder, tmp_path):
    name = settings_of(path).model.name or "vit_tiny_patch16_224"
    options = SMALL_MODELS[next(kind for kind in SMALL_MODELS if name.startswith(kind))]
    words = [f"--config={path}", f"--out={tmp_path / 'run'}", *SMALL, f"--model={name}", "--num-classes=0"]
    words += ["model.options={}", *(f"model.options.{option}={value}" for option, value in options.items())]
    if path.stem.startswith("pretrain"):
        assert pretrain.run([*words, f"--shards={folder}", "run.clean_images=4"]) == 0
    else:
        assert finetune.run([*words, f"--data={images}", "--checkpoint=none"]) == 0
    assert (tmp_path / "run" / "model" / "config.json").exists()


@pytest.mark.parametrize("path", [*EXAMPLES, *OTHERS], ids=lambda path: path.stem)
def test_each_says_what_it_should_give_and_whose_number_that_is(path):
    text = re.sub(r"\n# *", " ", path.read_text())
    assert re.search(r"[Ss]hould give|be held against|gives", text)
    assert re.search(r"paper|second-hand|\(ours|docs/results\.md|not known|unpublished", text)


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_large_ones_tell_what_is_published_from_what_is_ours(path):
    text = re.sub(r"\n# *", " ", path.read_text())
    assert f"examples/{path.name}" in text and "Published" in text
    assert "Not run by us" in text or "unpublished" in text
    assert "Ours:" in text or "all below" in text
    for command in re.findall(r"train/(\w+)\.py (--config .*?--out \S+)", text):
        program, words = command[0], shlex.split(command[1].replace("\\", ""))
        assert program == path.stem.split("-")[0] and (ROOT / words[1]) == path


def test_the_published_numbers_of_the_resnet():
    pretraining = settings_of(ROOT / "examples" / "pretrain-resnet50.yaml")
    plan = resolve(pretraining.schedule, pretraining.optim, batch_size=256, num_samples=1_000_000)
    assert plan.steps == 351_563 and plan.lr == pytest.approx(0.1) and plan.warmup_steps == 0
    assert [round(step * 256 / 1e6) for step in plan.milestones] == [30, 60]
    draws = np.random.default_rng(0).random((1000, 22))
    for name, side, crop in (("pretrain", 362, 224), ("finetune", 256, 224), ("finetune", 32, 28)):
        augment = settings_of(ROOT / "examples" / f"{name}-resnet50.yaml").augment
        boxes = draw_crops(draws, side, side, augment.scale, augment.ratio)
        assert (boxes[:, 2:] == crop).all() and set(boxes[:, 0]) == set(range(side - crop + 1))


def test_the_published_numbers_of_the_convnext():
    settings = settings_of(ROOT / "examples" / "finetune-convnext-tiny.yaml")
    plan = resolve(settings.schedule, settings.optim, batch_size=4096, num_samples=1_281_167)
    assert plan.lr == pytest.approx(4e-3) and plan.min_lr == pytest.approx(1e-6) and plan.warmup_lr == 0
    assert plan.warmup_steps == round(20 * 1_281_167 / 4096) and plan.steps == 93_836


def test_the_lengths_of_the_large_vit():
    settings = settings_of(ROOT / "examples" / "pretrain-1p-frac-21k-vitb.yaml")
    plan = resolve(settings.schedule, settings.optim, batch_size=1024, num_samples=21_000)
    assert plan.steps * 1024 == pytest.approx(15_238 * 21_000, rel=1e-4) and plan.lr == pytest.approx(5e-4)
    assert settings.augment == Pretraining().augment and settings.mix == Pretraining().mix
    assert settings.num_classes == 21_000
