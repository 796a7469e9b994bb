"""`python train/probe.py`, as a user runs it: tiny models at 32 pixels, pictures whose colour tells their class."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fracgen.train import probe
from fracgen.train.data.splits import open_splits
from fracgen.train.data.subsets import stratified_subset
from fracgen.train.engine.closed_form import sinusoidal_positions
from fracgen.train.engine.model import create, export
from fracgen.train.engine.settings import Model
from fracgen.train.probing import figure
from fracgen.train.probing.backbones import (
    Backbone,
    block_features,
    block_names,
    load_backbones,
    parse_checkpoint,
    resolve_feature,
)
from fracgen.train.probing.classifiers import Standardizer, fit_best, fit_logistic, predict_by_neighbours
from fracgen.train.probing.features import extract
from fracgen.train.probing.settings import ProbeSettings
from fracgen.train.probing.thread_map import thread_map

ROOT = Path(__file__).parents[1]
OPTIONS = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
HALF = (0.5, 0.5, 0.5)


def run(*arguments) -> int:
    return probe.run([str(argument) for argument in arguments])


def picture(path, rng, label, side=32):
    levels = rng.integers(0, 256, (side, side + 5, 3))
    levels[..., label] = levels[..., label] // 4 + 190
    Image.fromarray(levels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """20 training and 10 test pictures of each of three classes, of sizes of their own; not to be changed."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for label, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                picture(folder / split / name / f"{number:02d}.png", rng, label, 30 + number)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A timm folder of a tiny ViT for images of 32 pixels."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run") / "mine" / "model"
    folder.parent.mkdir()
    network = create(Model(name="vit_tiny_patch16_224", options=OPTIONS), num_classes=5, size=32)
    export(network, folder, size=32, mean=HALF, std=HALF, tag="test", options=OPTIONS)
    return folder


def tiny(name="vit_tiny_patch16_224", feature="auto", **options):
    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    feature = resolve_feature(network, feature, name)
    return Backbone(name=name, network=network, device=torch.device("cpu"), size=32, feature=feature)


@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_one_pass_gives_what_each_block_gives(feature):
    backbone = tiny(img_size=32, feature=feature, **OPTIONS)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        tokens = backbone.network._pos_embed(backbone.network.patch_embed(images))
        by_block = []
        for block in backbone.network.blocks:
            tokens = block(tokens)
            by_block.append(tokens[:, 0] if feature == "cls" else tokens[:, 1:].mean(1))
    features = block_features(backbone, images)
    assert block_names(backbone) == ["blocks.0", "blocks.1"] and len(features) == 2
    for one, other in zip(features, by_block, strict=True):
        torch.testing.assert_close(one, other)


def test_convolutional_nets_give_their_stages_averaged_over_places():
    backbone = tiny("resnet10t")
    assert backbone.feature == "mean" and block_names(backbone)[1:] == ["layer1", "layer2", "layer3", "layer4"]
    images = torch.randn(2, 3, 32, 32)
    last = block_features(backbone, images)[-1]
    torch.testing.assert_close(last, backbone.network.forward_features(images).mean((2, 3)))


def test_the_default_feature_is_what_the_model_classifies_by():
    assert tiny(img_size=32, **OPTIONS).feature == "cls"
    assert tiny(img_size=32, global_pool="avg", **OPTIONS).feature == "mean"
    with pytest.raises(Exception, match="no class token"):
        tiny("resnet10t", feature="cls")


def test_batches_and_threads_change_no_feature(data, monkeypatch):
    backbone, train = tiny(img_size=32, **OPTIONS), open_splits(str(data), val_share=0).train
    backbone = replace(backbone, blocks=block_names(backbone))
    by_size, before = [], torch.get_num_threads()
    for batch_size, threads in ((7, 1), (64, 3)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        by_size.append(extract([backbone], train, batch_size=batch_size))
    monkeypatch.undo()
    torch.set_num_threads(before)  # which the patched number was put in place of
    for one, other in zip(by_size[0].by_block[0], by_size[1].by_block[0], strict=True):
        assert one.shape == (60, 32)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert by_size[0].labels.tolist() == train.labels.tolist()


def test_features_of_networks_of_other_sizes_and_normalisations_come_in_their_order(data):
    train = open_splits(str(data), val_share=0).train
    nets = [tiny(img_size=32, **OPTIONS), tiny("resnet10t"), tiny(img_size=32, **OPTIONS)]
    nets[1] = replace(nets[1], size=64, mean=(0.4, 0.4, 0.4))
    nets = [replace(backbone, blocks=block_names(backbone)) for backbone in nets]
    together = extract(nets, train)
    for backbone, features in zip(nets, together.by_block, strict=True):
        (alone,) = extract([backbone], train).by_block
        assert len(features) == len(backbone.blocks)
        for one, other in zip(features, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def clusters(num, dim=8, classes=3, spread=0.2):
    torch.manual_seed(0)
    labels = torch.arange(num) % classes
    return torch.randn(classes, dim)[labels] + spread * torch.randn(num, dim), labels


def test_separable_features_are_told_apart_and_random_labels_are_not():
    features, labels = clusters(300)
    held_out = torch.arange(300) % 10 == 0
    fit, _ = fit_best(features[:200], labels[:200], held_out[:200], 3)
    guesses = fit.predict(Standardizer.fit(features[:200])(features[200:]))
    assert (guesses == labels[200:]).float().mean() == 1
    near = predict_by_neighbours(features[:200], labels[:200], features[200:], 3)
    assert (near == labels[200:]).float().mean() == 1
    mixed = labels[torch.randperm(300)]
    fit, _ = fit_best(features[:200], mixed[:200], held_out[:200], 3)
    guesses = fit.predict(Standardizer.fit(features[:200])(features[200:]))
    assert 0.15 < (guesses == mixed[200:]).float().mean() < 0.55


@pytest.mark.parametrize("l2", [0.1, 1e-3, 1e-6])
def test_the_regression_is_at_its_optimum(l2):
    """Autograd's gradient in float64 is zero there, on features of which some are near copies of others."""
    features, labels = clusters(240, spread=2.0)
    features = torch.cat([features, features + 0.01 * torch.randn(240, 8), torch.full((240, 1), 7.0)], 1)
    features = Standardizer.fit(features)(features)
    assert features[:, -1].eq(0).all(), "a constant dimension tells nothing"
    fit = fit_logistic(features, labels, 3, l2=l2)
    weights = fit.weights.double().requires_grad_()
    logits = features.double() @ weights[:, :-1].T + weights[:, -1]
    loss = torch.nn.functional.cross_entropy(logits, labels) + l2 / 2 * weights[:, :-1].square().sum()
    loss.backward()
    assert weights.grad.abs().max() < 2e-4
    assert loss.item() == pytest.approx(fit.loss, abs=1e-5)


def test_the_regression_agrees_with_scipys():
    optimize = pytest.importorskip("scipy.optimize")
    features, labels = clusters(120, spread=2.0)
    features = Standardizer.fit(features)(features)

    def loss(flat):
        weights = torch.tensor(flat).view(3, 9).requires_grad_()
        logits = features.double() @ weights[:, :-1].T + weights[:, -1]
        value = torch.nn.functional.cross_entropy(logits, labels) + 0.005 * weights[:, :-1].square().sum()
        value.backward()
        return value.item(), weights.grad.flatten().numpy()

    best = optimize.minimize(loss, np.zeros(27), jac=True, method="L-BFGS-B", tol=1e-12)
    fit = fit_logistic(features, labels, 3, l2=0.01)
    assert fit.loss == pytest.approx(best.fun, abs=1e-5)
    np.testing.assert_allclose(fit.weights[:, :-1], best.x.reshape(3, 9)[:, :-1], atol=0.02)


def test_neighbours_agree_with_brute_force():
    (bank, labels), queries = clusters(80, spread=1.5), torch.randn(30, 8)
    expected = []
    for query in queries.numpy():
        cosines = bank.numpy() @ query / (np.linalg.norm(bank.numpy(), axis=1) * np.linalg.norm(query))
        votes = np.zeros(3)
        for row in np.argsort(-cosines)[:5]:
            votes[labels[row]] += np.exp(cosines[row] / 0.07)
        expected.append(votes.argmax())
    assert predict_by_neighbours(bank, labels, queries, 3, k=5).tolist() == expected
    order = torch.randperm(80)
    assert predict_by_neighbours(bank[order], labels[order], queries, 3, k=5).tolist() == expected


def test_a_few_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 50, 2])
    chosen = stratified_subset(labels, 30, seed=0, purpose=1)
    assert np.bincount(labels[chosen]).tolist() == [19, 10, 1] and (np.diff(chosen) > 0).all()
    assert (chosen == stratified_subset(labels, 30, seed=0, purpose=1)).all()
    assert (chosen != stratified_subset(labels, 30, seed=1, purpose=1)).any()
    assert len(stratified_subset(labels, 1000, seed=0, purpose=1)) == 152
    assert set(labels[stratified_subset(labels, 3, seed=0, purpose=1)]) == {0, 1, 2}


def test_jobs_come_in_order_and_raise_at_their_turn():
    assert list(thread_map(lambda number: number**2, range(9), 3)) == [number**2 for number in range(9)]
    with pytest.raises(ZeroDivisionError):
        list(thread_map(lambda number: 1 // (number - 4), range(9), 2))


def test_a_probe_from_end_to_end(data, model, tmp_path, capsys):
    arguments = ["--checkpoint", model.parent, "--data", data, "--k=5"]
    for out in ("first", "again"):
        assert run(*arguments, "--out", tmp_path / out) == 0
    shown = capsys.readouterr().out
    assert "mine" in shown and "random init" in shown and "blocks.1" in shown
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"probe.json", "probe.png"}
    assert (tmp_path / "first" / "probe.png").read_bytes().startswith(b"\x89PNG")
    first, again = (json.loads((tmp_path / out / "probe.json").read_text()) for out in ("first", "again"))
    assert first.pop("seconds")["all"] > 0 and again.pop("seconds")
    assert first == again
    assert [(backbone["name"], backbone["random"]) for backbone in first["nets"]] == [
        ("mine", False),
        ("random init", True),
    ]
    (task,) = first["tasks"]
    assert [net["net"] for net in task["layers"]] == ["mine", "random init"]
    for block in task["layers"][0]["blocks"] + task["layers"][1]["blocks"]:
        assert block["linear"] >= 0.9 and block["knn"] >= 0.6 and block["dim"] == 32
    assert (task["train_images"], task["held_out_images"], task["test_images"]) == (60, 6, 30)
    assert task["chance"] == pytest.approx(1 / 3)


def test_the_nets_are_the_checkpoints_and_one_of_the_seed(model):
    trained = timm.create_model(f"local-dir:{model}", pretrained=True).state_dict()
    nets = []
    for seed in (0, 0, 1):
        nets.append(load_backbones(ProbeSettings(checkpoints=(str(model),), seed=seed), torch.device("cpu")))
    name = "blocks.1.mlp.fc1.weight"
    (loaded, blank), (_, again), (_, other) = [
        [backbone.network.state_dict()[name] for backbone in pair] for pair in nets
    ]
    assert torch.equal(loaded, trained[name]) and not torch.equal(blank, loaded)
    assert torch.equal(blank, again) and not torch.equal(blank, other)
    assert not nets[0][0].network.training


def test_a_random_network_of_each_architecture(model, tmp_path):
    """Whatever the size and the normalisation of the checkpoints: it has learned nothing of them."""
    other = tmp_path / "other" / "model"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 40, 40], "mean": [0.4, 0.4, 0.4]}
    (other / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), weights)

    def names(*checkpoints, **model):
        settings = ProbeSettings(checkpoints=checkpoints, model=Model(**{"name": "", "drop_path": 0.0, **model}))
        return [backbone.name for backbone in load_backbones(settings, torch.device("cpu"))]

    assert names(str(model), str(other)) == ["mine", "other", "random init"]
    assert names("none", name="resnet10t") == ["none"]
    assert names("none", str(weights), name="resnet10t") == ["none", "resnet"]


def test_a_closed_form_is_probed_as_such():
    options = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    architecture = Model(name="vit_tiny_patch16_224", drop_path=0.0, options=options, init="mimetic")
    settings = ProbeSettings(checkpoints=("none",), model=architecture, size=32)  # two patches a side
    (backbone,) = load_backbones(settings, torch.device("cpu"))
    expected = sinusoidal_positions((2, 2), 16, 1).float()
    assert torch.equal(backbone.network.pos_embed[0], expected) and backbone.random


def test_options_of_a_probe(data, model, tmp_path, capsys):
    options = ["--images=30", "--test-images=12", "--k=3", "--size=40", "--feature=mean", "--no-random", "--json"]
    checkpoints = ["--checkpoint", f"one={model}", "--checkpoint", model.parent]
    assert run(*checkpoints, "--data", data, "--out", tmp_path / "out", *options) == 0
    result = json.loads(capsys.readouterr().out)
    (task,) = result["tasks"]
    assert (task["train_images"], task["test_images"], len(result["nets"])) == (30, 12, 2)
    assert task["layers"][0]["blocks"] == task["layers"][1]["blocks"] and result["nets"][1]["name"] == "mine"
    assert result["nets"][0]["size"] == 40 and result["nets"][0]["feature"] == "mean"


@pytest.mark.parametrize("name", [r"a$\nosuch$b", "_x", "größe", "a_b^c"])
def test_any_name_is_plotted_as_it_is(name, tmp_path):
    layers = [{"net": name, "blocks": [{"block": "blocks.0", "linear": 0.5, "knn": 0.4}]}]
    tasks = [{"name": name, "chance": 0.1, "layers": layers}]
    figure.draw(tasks * 2, [False], tmp_path / "probe.png")
    assert Image.open(tmp_path / "probe.png").format == "PNG"
    assert figure.table(tasks).splitlines()[0].strip() == name


def test_a_stream_without_a_letter_does_not_lose_the_result(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    words = ["--data", data, "--out", tmp_path / "ü", "--k=3", "--no-random", "--images=9"]
    assert run("--checkpoint", f"ü={model}", *words) == 0
    assert (tmp_path / "ü" / "probe.png").exists() and rb"\xfc" in sys.stdout.buffer.getvalue()


def test_bad_pictures_are_told_or_counted(data, model, tmp_path, capsys):
    rng, folder = np.random.default_rng(0), tmp_path / "set"
    for split in ("train", "test"):
        for label in range(2):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(6):
                picture(folder / split / str(label) / f"{number}.png", rng, label)
    (folder / "train" / "1" / "3.png").write_bytes(b"none")
    arguments = ["--checkpoint", model, "--data", folder, "--out", tmp_path / "out", "--k=3", "--no-random", "--json"]
    assert run(*arguments) == 2
    assert "3.png" in capsys.readouterr().err and not (tmp_path / "out" / "probe.json").exists()
    with pytest.warns(UserWarning, match="3.png"):
        assert run(*arguments, "--skip-bad") == 0
    result = json.loads(capsys.readouterr().out)
    (task,) = result["tasks"]
    assert task["train_images"] == 11 and sum(task["skipped"].values()) == 1


@pytest.mark.parametrize(("num", "dim", "rank"), [(60, 96, 96), (500, 768, 5), (500, 512, 40)])
def test_features_with_one_strong_direction_are_fitted(num, dim, rank):
    """More dimensions than images, and nearly all variance along one of them, as untrained wide nets have it."""
    torch.manual_seed(0)
    low = torch.randn(num, rank) @ torch.randn(rank, dim) / rank**0.5
    features = 0.01 * low + torch.randn(num, 1) @ torch.randn(1, dim)
    labels = torch.arange(num) % 3
    fit, _ = fit_best(features, labels, torch.arange(num) % 10 == 0, 3)
    assert torch.isfinite(fit.weights).all() and fit.loss < 1.09, "ln 3 is 1.0986"


def test_checkpoints_are_called_by_their_run(tmp_path):
    assert parse_checkpoint("runs/1p-frac") == ("1p-frac", "runs/1p-frac")
    assert parse_checkpoint("runs/1p-frac/model") == ("1p-frac", "runs/1p-frac/model")
    assert parse_checkpoint("ours=runs/a=b") == ("ours", "runs/a=b")
    assert parse_checkpoint("runs/a=b") == ("a=b", "runs/a=b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images=2"], "fewer than the 3 classes"),
        (["--k=61"], "only 60 training images"),
        (["--checkpoint=none/such"], "no such file or folder"),
        (["--feature=best"], "best"),
        (["--crop=0"], "crop 0"),
        (["--crop=nan"], "crop nan"),
        (["--model=resnet10t"], "holds vit_tiny_patch16_224"),
        (["--test=nowhere"], "nowhere"),
        (["--precision=fp16"], "fp16"),
        (["kk=3"], "did you mean 'k'"),
        (["--size=4"], "4 x 4"),
        (["--feed=stream"], "a probe reads each image once; leave it out"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(data, model, tmp_path, capsys, arguments, message):
    assert run("--checkpoint", model, "--data", data, "--out", tmp_path / "out", "--device=cpu", *arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1] and "Traceback" not in "".join(err)
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_missing_words(data, model, tmp_path, capsys):
    whole = {"--checkpoint": model, "--data": data, "--out": tmp_path / "out"}
    for missing in whole:
        assert run(*(word for name, value in whole.items() if name != missing for word in (name, value))) == 2
        assert missing in capsys.readouterr().err
    twice = ["--checkpoint", model, "--checkpoint", model, "--data", data, "--out", tmp_path / "out"]
    assert run(*twice) == 2
    assert "another is called 'mine'" in capsys.readouterr().err


def test_an_interrupt_is_one_line(data, model, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fracgen.train.probing.block_scores.fit_best", interrupted)
    assert run("--checkpoint", model, "--data", data, "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "probe: interrupted"


def test_help_needs_no_torch():
    code = "import sys, fracgen.train.probe; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
