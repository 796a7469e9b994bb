"""Sets whose images have several labels: loss, mixing, accuracy, pre-training; what refuses them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_recipes
from torch import nn

from fracgen.export import to_parquet
from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import DataError
from fracgen.shards.reader import ShardFolder, open_shards
from fracgen.train import compare, finetune, pretrain, probe
from fracgen.train.augment.mix import Mixer
from fracgen.train.augment.settings import Mix
from fracgen.train.data.opening import open_examples
from fracgen.train.engine import metrics
from fracgen.train.engine.checkpoint import load
from fracgen.train.engine.evaluate import evaluate
from fracgen.train.engine.losses import multi_label_cross_entropy
from fracgen.train.ranks import Ranks

TINY = [
    "--model=vit_tiny_patch16_224",
    "--batch-size=8",
    "--device=cpu",
    "augment.size=32",
    "run.clean_images=12",
    *(f"model.options.{name}" for name in ("patch_size=8", "depth=1", "embed_dim=16", "num_heads=2")),
]
RECIPE = small_recipes()["multifractal"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished folder of 12 images of 4 classes, in 3 shards; not to be changed."""
    path = tmp_path_factory.mktemp("multi") / "set"
    write_shards(RECIPE, path, layout=plan(RECIPE, num_shards=3))
    return path


def train(folder, out, *arguments, workers=0) -> int:
    words = ["--shards", folder, "--out", out, *TINY, f"--workers={workers}", *arguments]
    return pretrain.run([str(word) for word in words])


def weights(out):
    return load(out / "last.pt").model


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_is_the_published_one():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 5)).astype(np.float32), np.zeros((6, 5), np.float32)
    expected = 0.0
    for row, count in enumerate([1, 2, 3, 4, 5, 1]):
        targets[row, rng.permutation(5)[:count]] = 1
        for logit, target in zip(logits[row].astype(float), targets[row], strict=True):
            share = 1 / (1 + np.exp(-logit))
            expected -= 5 / count * np.log(share) if target else np.log(1 - share)
    loss = multi_label_cross_entropy(torch.tensor(logits), torch.tensor(targets))
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(expected / 30, rel=1e-6)
    half = multi_label_cross_entropy(torch.tensor(logits).bfloat16(), torch.tensor(targets))
    assert half.dtype == torch.float32 and float(half) == pytest.approx(expected / 30, rel=1e-2)


@pytest.mark.parametrize("values", [{"cutmix": 0.0}, {"mixup": 0.0}, {}, {"mixup": 0.0, "cutmix": 0.0}])
def test_targets_are_mixed_as_the_images_are(values):
    """Images of which each pixel holds the number of its image: so that their shares can be read from them."""
    settings, shares = Mix(**values, smoothing=0.2), []
    multi_hot = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (8, 5), dtype=np.uint8))
    for step in range(6):
        mix = Mixer(settings, num_classes=5, seed=3, rank=0, multi_label=True)
        images = torch.arange(8.0)[:, None, None, None].expand(8, 3, 40, 40).clone()
        mixed, targets = mix(images, multi_hot, step)
        again, same_targets = Mixer(settings, num_classes=5, seed=3, rank=0, multi_label=True)(
            torch.arange(8.0)[:, None, None, None].expand(8, 3, 40, 40).clone(), multi_hot, step
        )
        assert torch.equal(mixed, again) and torch.equal(targets, same_targets) and targets.dtype == torch.float32
        share = 1 - float(mixed[0].mean()) / 7  # image 0 holds 0, and its partner 7
        expected = share * multi_hot.float() + (1 - share) * multi_hot.flip(0).float()
        assert torch.allclose(targets, expected * 0.8 + 0.2 / 5, atol=1e-5)
        shares.append(share)
    assert (len(set(shares)) > 1) == settings.mixes


def test_single_labels_are_mixed_as_one_hot_ones():
    """One label an image, as a multi-hot row: the same targets as timm's, for the same draws."""
    labels = torch.tensor([0, 3, 2, 2, 1, 4, 0, 1])
    for step in range(4):
        images = torch.rand(8, 3, 16, 16)
        one, targets = Mixer(Mix(), num_classes=5, seed=1, rank=0)(images.clone(), labels, step)
        rows = nn.functional.one_hot(labels, 5).to(torch.uint8)
        other, multi_hot = Mixer(Mix(), num_classes=5, seed=1, rank=0, multi_label=True)(images.clone(), rows, step)
        assert torch.equal(one, other) and torch.allclose(targets, multi_hot, atol=1e-6)


def test_accuracy_is_the_share_whose_first_guess_is_a_label():
    logits = torch.eye(7)[[2, 0, 6, 3]] + torch.linspace(0, 0.1, 7)
    labels = torch.zeros(4, 7, dtype=torch.uint8)
    labels[0, [1, 2]] = labels[1, 5] = labels[2, [0, 6]] = 1
    labels[3, [0, 1]] = 1  # not among the five guesses
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    scores = evaluate(nn.Identity(), [(logits, labels)], num_classes=7, amp=None, ranks=ranks, confusion=False)
    assert (scores.images, scores.right, scores.in_top5) == (4, 2, 3)


def test_examples_are_images_with_all_their_labels(folder):
    examples, shards = open_examples(str(folder)), open_shards(folder)
    assert examples.multi_label and examples.label_shape == (4,) and "several an image" in str(examples)
    for number, sample in enumerate(shards):
        pixels, multi_hot = examples.load(number)
        assert np.array_equal(pixels, sample.image) and multi_hot.dtype == np.uint8
        assert tuple(np.flatnonzero(multi_hot).tolist()) == sample.labels and examples.labels[number] == sample.label
    assert examples.subset([1, 2]).multi_label
    assert max(len(sample.labels) for sample in shards) > 1


def test_pretraining_goes_on_to_the_bit(folder, tmp_path, capsys):
    """In memory or streamed, whole or stopped, with workers or without: the same weights."""
    assert train(folder, tmp_path / "whole", "--steps=6", "--loader=memory") == 0
    out = capsys.readouterr()
    assert "several an image" in out.err and "first guess is one of their classes" in out.out
    last = metrics.last_values(tmp_path / "whole" / "metrics.jsonl", step=6)
    assert 0 <= last["clean_accuracy"] <= 1 and 0 < last["loss"] < 10
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "share of images whose first guess is one of their classes" in card
    assert train(folder, tmp_path / "stopped", "--steps=6", "--loader=stream", "--stop-after=3", workers=2) == 0
    assert train(folder, tmp_path / "stopped", "--steps=6", "--loader=stream", workers=2) == 0
    assert train(folder, tmp_path / "timm", "--steps=6", "--loader=stream", "loader.augment=timm", workers=2) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "timm"))


def test_a_sample_without_its_labels(folder, tmp_path, capsys):
    damaged = tmp_path / "set"
    shutil.copytree(folder, damaged)
    path = damaged / open_shards(damaged).manifest.shards[1].name
    path.write_bytes(path.read_bytes().replace(b'{"labels":', b'{"lables":', 1))
    assert train(damaged, tmp_path / "run", "--steps=2") == 1
    assert "labels None: must be a list" in (err := capsys.readouterr().err) and err.count("\n") <= 8
    assert train(damaged, tmp_path / "skipping", "--steps=2", "--skip-bad", "--json") == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (finetune, ["--checkpoint=none"]),
        (probe, ["--checkpoint=none"]),
        (compare, ["--start=scratch=none", "--model=vit_tiny_patch16_224"]),
    ],
)
def test_programs_of_single_labels_refuse_them(program, words, folder, tmp_path, capfd):
    assert program.run([*words, f"--data={folder}", f"--out={tmp_path / 'out'}"]) == 2
    assert "its images have several labels, which only `fracgen pretrain` learns" in capfd.readouterr().err


def test_an_export_names_the_image_whose_labels_are_wrong(folder, tmp_path, monkeypatch):
    read = ShardFolder.read_encoded_shard

    def read_with_wrong_labels(self, shard):
        return (replace(raw, metadata={**raw.metadata, "labels": [4]}) for raw in read(self, shard))

    monkeypatch.setattr(ShardFolder, "read_encoded_shard", read_with_wrong_labels)
    with pytest.raises(DataError, match=r"^sample \d+: labels \[4\]: must ascend, each 0 to 3"):
        to_parquet(folder, tmp_path / "out")
