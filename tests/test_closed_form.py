"""Closed-form initial weights: against slow oracles, by what they mean, and through the command lines."""

import math

import numpy as np
import pytest
import timm
import torch
import yaml
from test_finetune import data as data
from test_finetune import tune
from test_pretrain import same, train, weights

from fracgen.shards.errors import UsageError
from fracgen.train.engine import model as models
from fracgen.train.engine.checkpoint import load
from fracgen.train.engine.closed_form import (
    head_offset,
    impulse_heads,
    initialize,
    mimetic_head,
    random_positions,
    shift_matrix,
    sinusoidal_positions,
    values_and_projection,
)
from fracgen.train.engine.settings import CLOSED_FORMS, Model
from fracgen.train.seeding import generator

OPTIONS = {"patch_size": 4, "depth": 2, "embed_dim": 96, "num_heads": 3}
"""On images of 32 pixels: 8 x 8 patches, heads of 32 dimensions."""


def vit(init="default", *, seed=0, size=32, **options):
    settings = Model(name="vit_tiny_patch16_224", init=init, drop_path=0.0, options={**OPTIONS, **options})
    torch.manual_seed(0)
    model = models.create(settings, num_classes=5, size=size)
    initialize(model, init, seed=seed)
    return model


def shift_by_loops(rows, columns, step):
    matrix = np.zeros((rows * columns, rows * columns))
    for y in range(rows):
        for x in range(columns):
            if 0 <= y + step[0] < rows and 0 <= x + step[1] < columns:
                matrix[y * columns + x, (y + step[0]) * columns + x + step[1]] = 1
    return matrix


def z_by_loops(draws, width):
    bound = math.sqrt(3 / width)
    return np.array([[draws.uniform(-bound, bound) for _ in range(width)] for _ in range(width)])


def part_of_rank(matrix, rank):
    left, values, right = np.linalg.svd(matrix)
    return sum(values[n] * np.outer(left[:, n], right[n]) for n in range(rank))


def test_mimetic_products_are_those_of_the_paper():
    width, head_width, draws = 12, 4, generator(3, "closed_form", 1)
    oracle = generator(3, "closed_form", 1)
    for _ in range(3):
        queries, keys = mimetic_head(draws, width, head_width)
        whole = 0.7 * z_by_loops(oracle, width) + 0.7 * np.eye(width)
        assert queries.shape == keys.shape == (width, head_width)
        assert np.allclose(queries @ keys.T, part_of_rank(whole, head_width), atol=1e-12)
        assert torch.allclose(queries.norm(dim=0), keys.norm(dim=0)), "each has the square root of the singular values"
    values, projection = values_and_projection(draws, width)
    assert np.allclose(values @ projection.T, 0.4 * z_by_loops(oracle, width) - 0.4 * np.eye(width), atol=1e-12)


def noise_by_loops(draws, size):
    values = [draws.normal(0.0, 0.6) for _ in range(size * size)]
    while any(abs(value) > 2 for value in values):
        values = [draws.normal(0.0, 0.6) if abs(value) > 2 else value for value in values]
    return np.array(values).reshape(size, size)


@pytest.mark.parametrize(("grid", "width", "heads"), [((4, 5), 16, 2), ((3, 3), 12, 1), ((2, 2), 24, 3)])
def test_impulse_products_are_those_of_the_paper(grid, width, heads):
    """As published: the pseudoinverse by an SVD of P'P, and the SVD of A whole."""
    positions = random_positions(grid[0] * grid[1], width, 5)
    normed = np.array([(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in positions.numpy()])
    left, values, right = np.linalg.svd(normed.T @ normed)
    rank = min(width // heads, grid[0] * grid[1], width - 1)
    inverse = sum(np.outer(right[n], left[:, n]) / values[n] for n in range(rank)) @ normed.T
    oracle = generator(5, "closed_form", 0)
    factors = impulse_heads(generator(5, "closed_form", 0), positions, grid, heads)
    for head, (queries, keys) in enumerate(factors):
        shift = shift_by_loops(*grid, head_offset(head))
        target = np.where(shift > 0, 1000, 3 * noise_by_loops(oracle, len(normed)))
        product = part_of_rank(inverse @ target @ inverse.T, rank)
        assert np.allclose(queries.norm(), 7) and np.allclose(keys.norm(), 7) and queries.shape == (width, rank)
        # the two Frobenius norms before they became 7 are both the root of the sum of singular values
        assert np.allclose(queries @ keys.T, product * 49 / np.linalg.norm(product, "nuc"), atol=1e-6)


def test_heads_take_the_places_of_a_3_x_3_neighbourhood_in_order():
    offsets = [(0, 0), (-1, 0), (0, 1), (0, -1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    assert [head_offset(head) for head in range(12)] == [*offsets, *offsets[:3]]
    for grid in [(3, 4), (1, 3), (1, 1)]:
        for step in offsets:
            assert np.array_equal(shift_matrix(grid, step).numpy(), shift_by_loops(*grid, step))


def attention_of(model, block, *, tokens=slice(None)):
    """The attention map of each head, (heads, N, N), where an image adds nothing to the position embeddings."""
    attention = model.blocks[block].attn
    x = model.blocks[block].norm1(model.pos_embed)[0, tokens]
    queries, keys, _ = attention.qkv(x).reshape(len(x), 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    return (queries @ keys.transpose(-2, -1) * attention.scale).softmax(-1).detach()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_attention_map_of_an_impulse_head_is_its_shift(seed):
    model = vit("impulse", seed=seed)
    for block in range(2):
        for head, attention in enumerate(attention_of(model, block, tokens=slice(1, None))):
            shift = torch.tensor(shift_by_loops(8, 8, head_offset(head)))
            mass = (attention * shift).sum(1)[shift.any(1)]
            assert mass.mean() > 0.9


def test_sinusoidal_positions():
    embedding = sinusoidal_positions((2, 3), 8, 2)
    assert embedding.shape == (8, 8) and not embedding[:2].any()
    for y in range(2):
        for x in range(3):
            row = [wave(place * rate) for place in (x, y) for wave in (math.sin, math.cos) for rate in (1, 0.01)]
            assert np.allclose(embedding[2 + y * 3 + x], row)


@pytest.mark.parametrize("init", CLOSED_FORMS)
def test_attention_and_positions_alone_are_set(init):
    before, after = vit(depth=1).state_dict(), vit(init, depth=1).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"}
    assert all(not value.any() for name, value in after.items() if "attn" in name and name.endswith("bias"))


@pytest.mark.parametrize("init", CLOSED_FORMS)
def test_weights_are_a_function_of_the_seed_alone(init):
    one, again, other = vit(init, seed=3), vit(seed=9), vit(init, seed=4)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    initialize(again, init, seed=3)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    assert same(one.state_dict(), again.state_dict())
    for name in ("blocks.0.attn.qkv.weight", "blocks.1.attn.proj.weight"):
        assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(one.blocks[0].attn.qkv.weight, one.blocks[1].attn.qkv.weight)
    assert torch.equal(one.pos_embed, other.pos_embed) == (init == "mimetic")


@pytest.mark.parametrize("init", CLOSED_FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": False, "proj_bias": False},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 3},
        {"reg_tokens": 2, "no_embed_class": True},
        {"embed_dim": 100, "num_heads": 10, "depth": 1},
        {"num_heads": 1},
        {"patch_size": 16},
        {"patch_size": [4, 8]},
        {"init_values": 1e-5, "pre_norm": True},
    ],
    ids=str,
)
def test_plain_vits_of_any_shape(init, options):
    model = vit(init, **options)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()
    width = model.embed_dim
    for block in model.blocks:
        product = (block.attn.proj.weight @ block.attn.qkv.weight[2 * width :]).T  # rows are inputs
        assert product.diagonal().mean().item() == pytest.approx(-0.4, abs=0.03)
        assert (product + 0.4 * torch.eye(width)).std().item() == pytest.approx(0.4 / width**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10t", {}, "is not a plain ViT"),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1], "embed_dim": 24}, "is not a plain ViT"),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, "is not a plain ViT"),
        ("vit_tiny_patch16_224", {"depth": 1, "qk_norm": True}, "normalises or gates within its attention"),
        ("vit_tiny_patch16_224", {"depth": 1, "pos_embed": "none"}, "has no position embeddings"),
        ("vit_tiny_patch16_224", {"depth": 1, "dynamic_img_size": True}, "resizes them for each image"),
        ("vit_small_patch16_18x2_224", {"depth": 1}, "has blocks that are not layer norm, attention and MLP"),
        ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 30, "num_heads": 2}, "is 30 wide, no multiple of 4"),
    ],
)
def test_models_that_the_formulas_do_not_fit(name, options, message):
    settings = Model(name=name, init="mimetic", drop_path=0.0, options=options)
    for refuse in (lambda: models.check(settings, size=224), lambda: models.create(settings, num_classes=2, size=224)):
        with pytest.raises(UsageError, match=f"init mimetic: {name} .*{message}") as caught:
            refuse()
        assert "\n" not in str(caught.value)
    models.check(Model(name=name, drop_path=0.0, options=options), size=224)


def test_images_that_are_not_square():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), num_classes=5, **OPTIONS)
    for init in CLOSED_FORMS:
        initialize(model, init, seed=0)
    for head, attention in enumerate(attention_of(model, 0, tokens=slice(1, None))):
        shift = torch.tensor(shift_by_loops(8, 16, head_offset(head)))
        assert (attention * shift).sum(1)[shift.any(1)].mean() > 0.5


def initial_weights(init, seed=0):
    """Of the tiny model that the command lines below train, but for the head."""
    settings = Model(init=init, options={"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2})
    model = models.create(settings, num_classes=3, size=32)
    initialize(model, init, seed=seed)
    return model.state_dict()


def begins_with(state, init, seed=0):
    names = ["pos_embed", *(f"blocks.{n}.attn.{part}.weight" for n in (0, 1) for part in ("qkv", "proj"))]
    start = initial_weights(init, seed)
    return all(torch.allclose(state[name], start[name], atol=1e-4) for name in names)


SLOW = ["--steps=2", "--lr=1e-6", "run.clean_images=0"]


@pytest.mark.parametrize("init", CLOSED_FORMS)
def test_pretraining_begins_with_it(folder, tmp_path, capsys, init):
    assert train(folder, tmp_path / "run", *SLOW, "--init", init, "--seed=3") == 0
    assert begins_with(weights(tmp_path / "run"), init, seed=3)
    assert f"parameters, {init} init, " in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init"] == init


def test_a_paused_run_keeps_its_init_and_goes_on_bit_for_bit(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "straight", "--steps=4", "--init=impulse") == 0
    assert train(folder, tmp_path / "paused", "--steps=4", "--init=impulse", "--stop-after=2") == 0
    assert train(folder, tmp_path / "paused", "--steps=4") == 2
    assert "model.init default, was impulse" in capsys.readouterr().err
    assert train(folder, tmp_path / "paused", "--steps=4", "--init=impulse") == 0
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "paused"))


def test_runs_of_before_there_were_inits_go_on(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "run", "--steps=4", "--stop-after=2") == 0
    old = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    del old["config"]["model"]["init"]
    torch.save(old, tmp_path / "run" / "last.pt")
    assert train(folder, tmp_path / "run", "--steps=4", "--init=mimetic") == 2
    assert "model.init mimetic, was default" in capsys.readouterr().err
    assert train(folder, tmp_path / "run", "--steps=4") == 0
    assert load(tmp_path / "run" / "last.pt").step == 4


@pytest.mark.parametrize("init", CLOSED_FORMS)
def test_fine_tuning_from_scratch_begins_with_it(data, tmp_path, capsys, init):
    assert tune(data, tmp_path / "run", "--steps=2", "--lr=1e-6", f"--init={init}", "--seed=2") == 0
    assert begins_with(weights(tmp_path / "run"), init, seed=2)
    assert f"{init}: all weights new" in capsys.readouterr().err


def test_fine_tuning_a_run_takes_its_weights_and_not_its_init(folder, data, tmp_path, capsys):
    assert train(folder, tmp_path / "run", *SLOW, "--init=impulse") == 0
    (tmp_path / "impulse.yaml").write_text("model: {init: impulse}\n")
    for start in (tmp_path / "run", tmp_path / "run" / "model"):
        for words in (["--init=impulse"], ["model.init=impulse"], ["--config", tmp_path / "impulse.yaml"]):
            assert tune(data, tmp_path / "tuned", "--steps=2", "--checkpoint", start, *words) == 2
            err = capsys.readouterr().err.splitlines()[-1]
            assert "init impulse: is for starts from scratch" in err and not (tmp_path / "tuned").exists()
    assert tune(data, tmp_path / "tuned", "--steps=2", "--lr=1e-6", "--checkpoint", tmp_path / "run") == 0
    assert yaml.safe_load((tmp_path / "tuned" / "config.yaml").read_text())["model"]["init"] == "default"
    assert begins_with(weights(tmp_path / "tuned"), "impulse"), "the run's weights, which have hardly moved"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init=impuls"], "--init 'impuls': must be one of default, mimetic, impulse, did you mean 'impulse'?"),
        (["model.init=mimetik"], "did you mean 'mimetic'?"),
        (["--init=impulse", "--model=resnet10t", "model.options={}"], "init impulse: resnet10t is not a plain ViT"),
    ],
)
def test_bad_inits_are_one_line(folder, data, tmp_path, capsys, words, message):
    for command in (lambda: train(folder, tmp_path / "run", *words), lambda: tune(data, tmp_path / "run", *words)):
        assert command() == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "run").exists()
