"""A probe's other views: several tasks, a few images of each class, attention maps and position embeddings."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_probe import HALF, OPTIONS, data, model, picture, run, tiny  # noqa: F401  (fixtures)

from fracgen.shards.errors import UsageError
from fracgen.train.engine.closed_form import initialize
from fracgen.train.probing.attention import check_attention, measure_attention, position_similarity
from fracgen.train.probing.attention_figure import evenly_chosen
from fracgen.train.probing.few_shot import draw_rows, score_few_shot
from fracgen.train.probing.figure import few_shot_table, table
from fracgen.train.probing.tasks import parse_data

EIGHT = {"patch_size": 4, "embed_dim": 96, "depth": 2, "num_heads": 3, "img_size": 32}


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_maps_and_distances_are_those_of_plain_python(feature):
    """Queries times keys, softmax and distances written out, for one image, from the blocks' own weights."""
    backbone = tiny(img_size=32, feature=feature, **OPTIONS)  # 4 x 4 patches of 8 pixels, 2 heads
    images = torch.randn(3, 3, 32, 32)
    attention = measure_attention(backbone, images, num_maps=2)
    assert attention.query == ("class token" if feature == "cls" else "mean over patches")
    assert attention.blocks == ["blocks.0", "blocks.1"] and attention.maps[0].shape == (2, 2, 4, 4)
    network, expected, sums = backbone.network, [], np.zeros((2, 2))
    for image in images:
        with torch.no_grad():
            tokens = network._pos_embed(network.patch_embed(image[None]))
            for number, block in enumerate(network.blocks):
                queries, keys, _ = block.attn.qkv(block.norm1(tokens))[0].reshape(17, 3, 2, 16).permute(1, 2, 0, 3)
                for head in range(2):
                    rows = []
                    for query in queries[head].tolist():
                        scores = [sum(map(math.prod, zip(query, key))) / 4 for key in keys[head].tolist()]  # noqa: B905
                        weights = [math.exp(score) for score in scores]
                        rows.append([weight / sum(weights) for weight in weights])
                    expected.append(rows[0][1:] if feature == "cls" else np.mean(rows[1:], 0)[1:])
                    for one in range(16):
                        seen = rows[one + 1][1:]
                        far = [8 * math.hypot(one // 4 - other // 4, one % 4 - other % 4) for other in range(16)]
                        sums[number, head] += sum(map(math.prod, zip(seen, far))) / sum(seen) / 16  # noqa: B905
                tokens = block(tokens)
    maps = torch.stack([*attention.maps], 1).reshape(-1, 16)
    np.testing.assert_allclose(maps, 17 * np.array(expected)[: len(maps)], rtol=2e-4)
    np.testing.assert_allclose(attention.distances, sums / 3, rtol=2e-4)


def test_heads_of_the_impulse_start_look_where_its_formulas_say():
    """Heads 0, 1 and 2 at the patch itself, one row up, one column right: 0 and 4 pixels; evenly at the border."""
    backbone = tiny(**EIGHT)
    initialize(backbone.network, "impulse", seed=0)
    attention = measure_attention(backbone, torch.zeros(1, 3, 32, 32), num_maps=1)
    from_border = [4 * math.hypot(number // 8, number % 8 - column) for column in range(8) for number in range(64)]
    expected = 7 / 8 * 4 + np.mean(from_border) / 8
    assert attention.distances[0] == pytest.approx([0, expected, expected], abs=0.2)
    even = measure_attention(tiny(**EIGHT), torch.randn(4, 3, 32, 32), num_maps=1)
    assert all(abs(each - even.even_distance) < 0.5 for block in even.distances for each in block)


def test_the_network_itself_is_not_changed():
    backbone, images = tiny(img_size=32, **OPTIONS), torch.randn(2, 3, 32, 32)
    before = backbone.network(images)
    measure_attention(backbone, images, num_maps=1)
    assert torch.equal(backbone.network(images), before) and backbone.network.blocks[0].attn.fused_attn
    assert not any(module._forward_hooks for module in backbone.network.modules())


def test_similarity_of_position_embeddings():
    backbone = tiny(**EIGHT)
    initialize(backbone.network, "mimetic", seed=0)  # sinusoidal: alike where near
    similarity = position_similarity(backbone)
    assert similarity.shape == (8, 8, 8, 8)
    positions = backbone.network.pos_embed[0, 1:].detach().numpy().reshape(8, 8, 96)
    one, other = positions[2, 3], positions[5, 1]
    expected = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert float(similarity[2, 3, 5, 1]) == pytest.approx(expected, abs=1e-5)
    assert similarity[4, 4, 4, 5] > similarity[4, 4, 0, 0] and similarity[4, 4, 4, 4] == pytest.approx(1)
    assert position_similarity(tiny("resnet10t")) is None
    relative = tiny("vit_relpos_small_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2)
    assert position_similarity(relative) is None


def test_networks_without_attention_between_all_patches_are_one_line():
    windows = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 1)}
    swin = tiny("swin_tiny_patch4_window7_224", **windows)
    for backbone in (tiny("resnet10t"), swin):
        with pytest.raises(UsageError, match="has no attention between all patches, as a plain ViT has"):
            check_attention(backbone)
    with pytest.raises(UsageError, match=r"--head 3: .* has 2 heads"):
        check_attention(tiny(img_size=32, **OPTIONS), [3])
    assert evenly_chosen(4) == [0, 1, 2, 3] and evenly_chosen(12) == [0, 2, 4, 7, 9, 11]


def test_attention_from_end_to_end(data, model, tmp_path):  # noqa: F811
    words = ["--checkpoint", f"a b$={model}", "--checkpoint", f"mine={model}", "--data", data]
    words += ["--no-layers", "--attention"]
    assert run(*words, "--attention-images=3", "--block=2", "--head=1", "--out", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"probe.json", "attention_distance.png", "position_embeddings.png", "attention-1-a_b_.png",
                     "attention-2-mine.png", "attention-3-random_init.png"}  # fmt: skip
    result = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert {*result["figures"], "probe.json"} == names and "layers" not in result["tasks"][0]
    assert result["attention"]["images"] == 30 and len(result["attention"]["nets"]) == 3
    for net in result["attention"]["nets"]:
        assert [len(block["distances"]) for block in net["blocks"]] == [2, 2] and net["query"] == "class token"
    for name in names - {"probe.json"}:
        assert np.ptp(np.asarray(Image.open(tmp_path / "out" / name))) > 100, f"{name} shows something"


# ---- few-shot --------------------------------------------------------------------------------------------------------


def test_draws_are_nested_of_each_class_and_of_the_seed():
    labels = torch.arange(60) % 3
    draws = {
        (shots, seed, draw): draw_rows(labels, "abc", shots=shots, seed=seed, draw=draw)
        for shots in (1, 2, 5)
        for seed in (0, 1)
        for draw in (0, 1)
    }
    for (shots, seed, draw), rows in draws.items():
        assert labels[rows].bincount().tolist() == [shots] * 3
        assert set(rows.tolist()) <= set(draws[5, seed, draw].tolist())
    assert len({tuple(draws[case].tolist()) for case in draws if case[0] == 5}) == 4
    with pytest.raises(UsageError, match="--shots 21: class 'a' has 20 of"):
        draw_rows(labels, "abc", shots=21, seed=0, draw=0)


def test_more_shots_are_worth_more_and_what_is_not_drawn_is_not_used():
    torch.manual_seed(0)
    labels, centres = torch.arange(400) % 4, torch.randn(4, 12)
    features = centres[labels] + 1.2 * torch.randn(400, 12)
    arguments = {"shots": (1, 10), "draws": 4, "seed": 3, "k": 20}
    train, test, ours, theirs = features[:300], features[300:], labels[:300], labels[300:]
    one, ten = score_few_shot(train, test, ours, theirs, "abcd", **arguments)
    for classifier in ("linear", "knn"):
        assert ten[classifier]["mean"] > one[classifier]["mean"] > 0.3 and len(one[classifier]["draws"]) == 4
        assert one[classifier]["mean"] == pytest.approx(np.mean(one[classifier]["draws"]))
        assert one[classifier]["std"] == pytest.approx(np.std(one[classifier]["draws"], ddof=1))
    used = torch.cat([draw_rows(ours, "abcd", shots=10, seed=3, draw=draw) for draw in range(4)]).unique()
    other = 1000 * torch.randn_like(train)
    other[used] = train[used]
    assert score_few_shot(other, test, ours, theirs, "abcd", **arguments) == [one, ten]
    nearest = []
    for draw in range(4):
        rows = draw_rows(ours, "abcd", shots=1, seed=3, draw=draw).numpy()
        few = train[rows].numpy()
        mean, std = few.mean(0), few.std(0)
        bank, queries = ((each - mean) / std for each in (few, test.numpy()))
        cosines = queries @ bank.T / np.linalg.norm(bank, axis=1) / np.linalg.norm(queries, axis=1)[:, None]
        nearest.append(float((ours.numpy()[rows][cosines.argmax(1)] == theirs.numpy()).mean()))
    assert one["knn"]["draws"] == pytest.approx(nearest)


def test_few_shot_from_end_to_end(data, model, tmp_path, capsys):  # noqa: F811
    words = ["--checkpoint", model.parent, "--data", data, "--few-shot", "--no-layers", "--shots=1", "--shots=3"]
    assert run(*words, "--draws=3", "--block=1", "--block=2", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "  1 a class, blocks.0" in shown and "  3 a class, blocks.1" in shown and " ± " in shown
    (task,) = json.loads((tmp_path / "out" / "probe.json").read_text())["tasks"]
    assert [(entry["net"], entry["block"]) for entry in task["few_shot"]] == [
        (net, block) for net in ("mine", "random init") for block in ("blocks.0", "blocks.1")
    ]
    assert not (tmp_path / "out" / "probe.png").exists()
    assert run(*words, "--shots=21", "--out", tmp_path / "more") == 2
    assert not (tmp_path / "more").exists(), "it is refused before any feature is computed"
    assert "--shots 21: class 'blue' has 20 of the chosen training images" in capsys.readouterr().err


# ---- several tasks ---------------------------------------------------------------------------------------------------


def test_several_tasks_make_one_table(data, model, tmp_path, capsys):  # noqa: F811
    rng = np.random.default_rng(1)
    for split, label, number in np.ndindex(2, 2, 8):
        path = tmp_path / "two" / ("train", "test")[split] / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, rng, label)
    words = ["--checkpoint", model, "--data", f"colours={data}", "--data", tmp_path / "two", "--k=3", "--few-shot"]
    assert run(*words, "--shots=2", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line for line in lines if line and line[0].isalpha()][:3] == ["colours", "two", "mean of 2 tasks"]
    result = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert [(task["name"], task["classes"]) for task in result["tasks"]] == [("colours", 3), ("two", 2)]
    alone = tmp_path / "alone"
    assert run("--checkpoint", model, "--data", tmp_path / "two", "--k=3", "--out", alone) == 0
    (task,) = json.loads((alone / "probe.json").read_text())["tasks"]
    assert task["layers"] == result["tasks"][1]["layers"], "a task's numbers do not depend on the others"
    mean = np.mean([each["layers"][0]["blocks"][1]["linear"] for each in result["tasks"]])
    assert f"{100 * mean:.1f}" in lines[lines.index("mean of 2 tasks") + 2]
    assert few_shot_table(result["tasks"]).splitlines()[2] == "colours" and table(result["tasks"]) in shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "{data}"], "--data .*: another is called"),
        (["--data", "b={data}", "--test", "{data}/test"], "is for one --data"),
        (["--no-layers"], "nothing is left to look at"),
        (["--block=3"], "--block 3: mine has 2 blocks, from 1 on"),
        (["--attention", "--head=3"], "--head 3: mine has 2 heads, from 1 on"),
        (["--shots=2", "--shots=2"], "--shots: each number once"),
        (["--block=0"], "0"),
        (["--draws=1"], "draws 1"),
        (["--attention", "--checkpoint", "net=none", "--model=resnet10t"], "net .resnet10t. has no attention"),
    ],
)
def test_bad_words(data, model, tmp_path, capsys, words, message):  # noqa: F811
    words = [word.format(data=data) for word in words]
    checkpoint = [] if "--model=resnet10t" in words else ["--checkpoint", model.parent]
    assert run(*checkpoint, "--data", data, *words, "--k=3", "--device=cpu", "--out", tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()


def test_names_of_tasks():
    assert parse_data("cifar10") == ("cifar10", "cifar10")
    assert parse_data("torch/cifar100") == ("cifar100", "torch/cifar100")
    assert parse_data("c=torch/cifar100") == ("c", "torch/cifar100")
    assert parse_data("https://host/sets/birds?key=abc") == ("birds", "https://host/sets/birds?key=abc")
