"""`python train/mae.py`: masked autoencoding against a slow oracle, its runs, and what fine-tuning makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import contents, killed_run, two_processes
from PIL import Image
from test_pretrain import same, weights

from fracgen.cli.app import run as fracgen
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import load_settings
from fracgen.train import mae
from fracgen.train.augment.settings import Augmentation
from fracgen.train.engine import metrics
from fracgen.train.engine.checkpoint import load
from fracgen.train.engine.init_weights import load_init
from fracgen.train.engine.model import optimizer
from fracgen.train.engine.schedule import resolve
from fracgen.train.engine.settings import Model
from fracgen.train.masked.autoencoder import MaskedAutoencoder, count_visible, create
from fracgen.train.masked.picture import PICTURE, Reconstructions
from fracgen.train.masked.settings import Decoder, Masking

ROOT = Path(__file__).parents[1]
NET = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
SMALL_DECODER = Decoder(width=16, depth=1, heads=2)
TINY = [
    "--batch-size=8",
    "--device=cpu",
    "--workers=0",
    "augment.size=32",
    "run.draw_images=2",
    *(f"model.options.{name}={value}" for name, value in NET.items()),
    *(f"decoder.{name}={value}" for name, value in (("width", 16), ("depth", 1), ("heads", 2))),
]


def run(*arguments) -> int:
    return mae.run([str(argument) for argument in arguments])


def train(shards, out, *arguments) -> int:
    return run("--shards", shards, "--out", out, *TINY, *arguments)


def autoencoder(*, masking: Masking = Masking(), **changes) -> MaskedAutoencoder:  # noqa: B008
    settings = Model(name="vit_tiny_patch16_224", drop_path=0.0, options=NET | changes)
    return create(load_init("none", settings), SMALL_DECODER, masking, size=32, seed=0)[0]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """A run of 12 steps, not to be changed."""
    out = tmp_path_factory.mktemp("mae") / "straight"
    assert train(folder, out, "--steps=12", "run.log_every=4") == 0
    return out


# ---- the autoencoder -------------------------------------------------------------------------------------------------


def test_patches_are_cut_row_by_row():
    model, image = autoencoder(), torch.arange(3 * 32 * 32, dtype=torch.float32).reshape(1, 3, 32, 32)
    patches = model.patchify(image)
    assert patches.shape == (1, 16, 8 * 8 * 3)
    for row, column in np.ndindex(4, 4):
        square = image[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(patches[0, 4 * row + column].reshape(8, 8, 3), square.permute(1, 2, 0))
    assert torch.equal(model.unpatchify(patches), image)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_is_that_of_the_paper(norm_pix):
    """Mean over pixels, then over hidden patches only, of all images together, in plain numpy."""
    model = autoencoder(masking=Masking(norm_pix=norm_pix))
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 2, (3, 3, 32, 32)).astype(np.float32)
    images[0, :, :8, :8] = 0.25  # a patch of one level
    predictions = rng.normal(size=(3, 16, 192)).astype(np.float32)
    hidden = rng.random((3, 16)) < 0.75
    errors = []
    for image, guesses, hides in zip(images, predictions, hidden, strict=True):
        for place in np.flatnonzero(hides):
            row, column = divmod(place, 4)
            target = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].transpose(1, 2, 0).ravel()
            if norm_pix:
                target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            errors.append(np.mean((guesses[place] - target) ** 2))
    loss = model.loss((torch.from_numpy(predictions), torch.from_numpy(hidden)), torch.from_numpy(images))
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_hidden_patches_change_no_prediction_and_visible_ones_do(pool):
    model = autoencoder(global_pool=pool).eval()
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    predictions, hidden = model(images, noise)
    assert predictions.shape == (2, 16, 192) and hidden.sum(1).tolist() == [12, 12]
    assert torch.equal(hidden, noise > noise.kthvalue(4, 1, keepdim=True).values), "the smallest are visible"
    other = model.patchify(images).where(~hidden[..., None], torch.randn(2, 16, 192))
    assert torch.equal(model(model.unpatchify(other), noise)[0], predictions)
    other = model.patchify(images).where(hidden[..., None], torch.randn(2, 16, 192))
    assert not torch.allclose(model(model.unpatchify(other), noise)[0], predictions)


def test_with_all_patches_in_order_the_encoder_is_timms():
    model = autoencoder().eval()
    images, everything = torch.randn(2, 3, 32, 32), torch.arange(16).expand(2, -1)
    assert torch.allclose(model._encode(images, everything), model.encoder.forward_features(images), atol=1e-6)


def test_predictions_lie_in_the_places_of_their_patches():
    """Visible patches in another order are the same patches: the decoder has them at their places again."""
    model = autoencoder().eval()
    images, visible = torch.randn(1, 3, 32, 32), torch.tensor([[3, 5, 9, 14]])
    one, other = (model._decode(model._encode(images, each), each) for each in (visible, visible.flip(1)))
    assert torch.allclose(one, other, atol=1e-5)
    guesses = one[0, [place for place in range(16) if place not in (3, 5, 9, 14)]]
    assert torch.pdist(guesses).min() > 1e-3, "hidden places have one token, and differ by where they are"


def test_masks_are_uniform_and_follow_torchs_seed():
    model, images = autoencoder(), torch.zeros(500, 3, 32, 32)
    with torch.no_grad():
        torch.manual_seed(5)
        _, hidden = model(images)
        torch.manual_seed(5)
        assert torch.equal(hidden, model(images)[1])
        assert not torch.equal(hidden, model(images)[1])
    shares = hidden.float().mean(0)
    assert (shares - 0.75).abs().max() < 5 * np.sqrt(0.75 * 0.25 / 500)


def test_weights_begin_as_published_and_tokens_do_not_decay():
    model = autoencoder()
    positions = model.encoder.pos_embed
    assert not positions.requires_grad and not positions[0, 0].any()
    assert torch.equal(positions[0, 1], torch.tensor([0.0] * 16 + [1.0] * 16))
    assert (positions[0, 1:, None] - positions[0, None, 1:]).norm(dim=2).add(10 * torch.eye(16)).min() > 0.1
    bound = np.sqrt(6 / (32 + 96))
    assert 0.99 * bound < model.encoder.blocks[0].attn.qkv.weight.abs().max() <= bound
    again = autoencoder()
    assert same(model.state_dict(), again.state_dict())
    groups = optimizer(model, mae.MaskedPretraining().optim, lr=1.0).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free = {names[id(each)] for group in groups if not group["weight_decay"] for each in group["params"]}
    assert {"mask_token", "encoder.cls_token", "encoder.norm.bias", "decoder_embed.bias"} <= free
    assert "encoder.patch_embed.proj.weight" not in free and all(group["betas"] == (0.9, 0.95) for group in groups)


def test_activations_computed_again_give_the_same_gradients():
    images, noise, gradients = torch.randn(2, 3, 32, 32), torch.rand(2, 16), []
    for again in (False, True):
        model = autoencoder()
        model.set_grad_checkpointing(again)
        model.loss(model(images, noise), images).backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert gradients[0]["encoder.cls_token"].any() and same(*gradients)


def test_closed_forms_keep_their_position_embeddings():
    settings = Model(name="vit_tiny_patch16_224", drop_path=0.0, init="impulse", options=NET)
    model, _ = create(load_init("none", settings), SMALL_DECODER, Masking(), size=32, seed=0)
    assert model.encoder.pos_embed.requires_grad and model.encoder.pos_embed.std() > 0.1


def test_of_a_warm_up_blocks_stay_and_all_else_begins_as_published():
    """`fracgen dyck` leaves blocks and norm: patches, positions and class token are those of a start from scratch."""
    vit = autoencoder().encoder.state_dict()
    init = load_init("none", Model(name="vit_tiny_patch16_224", drop_path=0.0, options=NET))
    init = replace(init, weights={}, modules=("blocks", "norm"))
    init = replace(init, weights={name: each + 1 for name, each in vit.items() if init.holds(name)})
    warm = create(init, SMALL_DECODER, Masking(), size=32, seed=0)[0].encoder
    assert all(torch.equal(warm.state_dict()[name], each) for name, each in init.weights.items())
    assert torch.equal(warm.pos_embed, vit["pos_embed"]) and not warm.pos_embed.requires_grad
    bound = np.sqrt(6 / (32 + 192))
    assert 0.98 * bound < warm.patch_embed.proj.weight.abs().max() <= bound


def test_ratios_that_leave_nothing_are_refused():
    assert [count_visible(196, 0.75), count_visible(10, 0.9), count_visible(64, 0.5)] == [49, 1, 32]
    assert count_visible(16, 0.01) == count_visible(16, 1e-12) == 15, "one patch at least is hidden"
    with pytest.raises(UsageError, match=r"--mask-ratio 0\.99: leaves no visible patch of 16; give at most 0\.937"):
        count_visible(16, 0.99)
    assert count_visible(16, 0.937) == 1


def test_the_published_numbers_are_the_defaults():
    """Those of the paper's appendix A.1, on ImageNet-1k; the example for 1p-frac differs by its length alone."""
    settings = mae.MaskedPretraining()
    long = replace(settings.schedule, epochs=mae._EPOCHS)
    resolved = resolve(long, settings.optim, batch_size=settings.loader.batch_size, num_samples=1_281_167)
    assert resolved.lr == pytest.approx(1.5e-4 * 4096 / 256) and resolved.min_lr == resolved.warmup_lr == 0
    assert resolved.warmup_steps == pytest.approx(resolved.steps * 40 / 800, abs=1)
    example = load_settings(mae.MaskedPretraining, str(ROOT / "examples" / "mae-1p-frac.yaml"), {})
    model = replace(settings.model, name="vit_tiny_patch16_224")
    assert replace(example, schedule=settings.schedule) == replace(settings, model=model)
    short = resolve(example.schedule, example.optim, batch_size=4096, num_samples=1000)
    assert (short.steps, short.warmup_steps) == (15_000, 750)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_timm_encoder_curves_and_a_picture(straight):
    assert {PICTURE, "curves.png", "metrics.jsonl", "config.yaml", "last.pt", "model"} <= {
        path.name for path in straight.iterdir()
    }
    encoder = timm.create_model(f"local-dir:{straight}/model", pretrained=True, num_classes=5)
    kept, trained = encoder.state_dict(), weights(straight)
    assert all(torch.equal(kept[name], trained[f"encoder.{name}"]) for name in kept if not name.startswith("head."))
    logged = metrics.read(straight / "metrics.jsonl")
    assert [line["step"] for line in logged] == [4, 8, 12] and logged[-1]["clean_loss"] > 0
    config = json.loads((straight / "model" / "config.json").read_text())
    assert config["num_classes"] == 0 and config["fracgen"]["task"] == "image-feature-extraction"
    card = (straight / "model" / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card and "0 classes" not in card and "no label is used" in card


@pytest.mark.parametrize(
    "options",
    [[], ["--loader=stream"], ["--precision=bf16"], ["model.drop_path=0.2", "optim.ema=0.5", "run.accumulate=2"]],
    ids=str,
)
def test_a_paused_run_goes_on_bit_for_bit(folder, tmp_path, options, straight):
    if options:
        assert train(folder, tmp_path / "straight", "--steps=12", *options) == 0
        straight = tmp_path / "straight"
    for stop_after in ("--stop-after=5", "--stop-after=8", "--stop-after=0"):
        assert train(folder, tmp_path / "paused", "--steps=12", stop_after, *options) == 0
    assert same(weights(straight), weights(tmp_path / "paused"))


def test_a_killed_run_goes_on_from_its_last_checkpoint(folder, tmp_path, straight):
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=12", "run.checkpoint_every=2"]
    killed_run("mae", arguments, tmp_path, step=7)
    assert load(tmp_path / "run" / "last.pt").step == 6
    assert run(*arguments) == 0
    assert same(weights(straight), weights(tmp_path / "run"))
    assert (tmp_path / "run" / PICTURE).read_bytes() == (straight / PICTURE).read_bytes()


def test_the_seed_decides_everything(folder, tmp_path, straight):
    assert train(folder, tmp_path / "again", "--steps=12", "--workers=2", "--loader=stream") == 0
    assert train(folder, tmp_path / "other", "--steps=12", "--seed=1") == 0
    assert same(weights(straight), weights(tmp_path / "again"))
    assert not same(weights(straight), weights(tmp_path / "other"))


def test_two_processes_hold_the_same_weights(folder, tmp_path):
    script = (
        "import sys, torch, torch.distributed as dist\n"
        "from fracgen.train import mae\nfrom fracgen.train.engine import trainer\n"
        "from fracgen.train.masked.autoencoder import MaskedAutoencoder\n"
        "masks, forward, fit = [], MaskedAutoencoder.forward, trainer.fit\n"
        "def watched(self, images, noise=None):\n"
        "    output = forward(self, images, noise)\n"
        "    masks.append(output[1].clone())\n"
        "    return output\n"
        "def checked(state, *rest):\n"
        "    ending = fit(state, *rest)\n"
        "    for mine, equal in ((torch.cat([p.detach().flatten() for p in state.model.parameters()]), True),\n"
        "                        (masks[0].float(), False)):\n"
        "        both = [torch.empty_like(mine) for _ in range(2)]\n"
        "        dist.all_gather(both, mine)\n"
        "        assert torch.equal(*both) is equal\n"
        "    return ending\n"
        "MaskedAutoencoder.forward, trainer.fit = watched, checked\n"
        "sys.exit(mae.run(sys.argv[1:]))\n"
    )
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=4", "--loader=memory"]
    done = two_processes(script, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run" / "last.pt").world == 2 and (tmp_path / "run" / PICTURE).exists()


def test_it_learns(folder, tmp_path):
    """Predicting nothing costs about 1 with norm_pix; what the visible patches say takes a part of it away."""
    easy = ["augment.scale=[0.9, 1]", "--lr=0.2", "optim.clip=1", "run.log_every=25"]
    assert train(folder, tmp_path / "run", "--steps=250", *easy) == 0
    losses = [line["loss"] for line in metrics.read(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0] and losses[-1] < 0.9, losses


def test_fine_tuning_and_the_probe_take_it_as_any_start(straight, tmp_path):
    rng = np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 12):
        place = tmp_path / "images" / ("train", "test")[split] / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{number}.png")
    start = [f"--data={tmp_path}/images", f"--checkpoint={straight}", "--device=cpu"]
    small = ["--steps=2", "--batch-size=4", "--workers=0", "augment.size=32"]
    assert fracgen(["finetune", *start, *small, f"--out={tmp_path}/tuned"]) == 0
    loaded = json.loads((tmp_path / "tuned" / "results.json").read_text())["loaded"]
    assert sorted(loaded["missing"]) == ["head.bias", "head.weight"] and not loaded["unexpected"]
    sizes = ["--images=16", "--test-images=4", "--k=3", "--batch-size=8"]
    assert fracgen(["probe", *start, *sizes, f"--out={tmp_path}/probe"]) == 0


def test_it_begins_with_the_weights_of_another_run(folder, tmp_path, straight, capsys):
    assert train(folder, tmp_path / "more", f"--checkpoint={straight}", "--steps=1", "--lr=1e-20") == 0
    before, after = (
        timm.create_model(f"local-dir:{out}/model", pretrained=True) for out in (straight, tmp_path / "more")
    )
    assert all(torch.allclose(one, after.state_dict()[name]) for name, one in before.state_dict().items())
    assert "no head, all other weights loaded" in capsys.readouterr().err
    refused = ["--shards", folder, "--out", tmp_path / "none", f"--checkpoint={straight}", "--device=cpu", "--steps=1"]
    assert run(*refused, "augment.size=32", "model.options.depth=3") == 2
    assert "was made with depth 2, not 3" in capsys.readouterr().err
    assert run(*refused, "augment.size=32", "--init=mimetic") == 2
    assert "is for starts from scratch" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("recipe", ["photo", "fractaldb", "1p-frac, color", "multifractal"])
def test_one_photograph_colours_and_several_labels_too(recipe, tmp_path):
    from conftest import small_recipes

    from fracgen.render_shards import plan, write_shards

    write_shards(small_recipes()[recipe], tmp_path / "set", layout=plan(small_recipes()[recipe], num_shards=1))
    assert train(tmp_path / "set", tmp_path / "run", "--steps=2", "--batch-size=4") == 0


def test_the_speed_is_measured_and_nothing_kept(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fracgen.train.engine.benchmark._SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    assert run("--shards", folder, *TINY, "--benchmark", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model_only_images_per_second"] > 0
    assert contents(tmp_path) == {}


BAD = [
    (["--model=resnet10t", "model.options={}"], "model resnet10t: is no plain ViT of timm's"),
    (["--model=deit_tiny_distilled_patch16_224"], "is no plain ViT"),
    (["augment.size=36"], "patches of 8 x 8 pixels do not fill an image of 36 x 36; give a size of 32 or 40"),
    (["--mask-ratio=0.99"], "leaves no visible patch of 16; give at most 0.937"),
    (["--mask-ratio=1"], "--mask-ratio 1.0: must be in (0, 1)"),
    (["decoder.heads=5"], "decoder.width 16: must be a multiple of 4, for its position embeddings, and of"),
    (["decoder.width=18", "decoder.heads=2"], "decoder.width 18: must be a multiple of 4"),
    (["model.options.patch_drop_rate=0.5"], "drops patches by itself"),
    (["model.options.global_pool=map"], "pools by attention"),
    (["model.options.pos_embed=none"], "has no position embeddings"),
    (["optim.betas=[0.9]"], "optim.betas [0.9]: adamw takes another number of them"),
    (
        ["optim.layer_decay=0.75"],
        "optim.layer_decay 0.75: timm knows no layers of MaskedAutoencoder",
    ),
    (["--checkpoint=nowhere"], "--checkpoint nowhere: no such file or folder"),
    (["--batch-size=0"], "--batch-size 0: must be 1 to"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda each: each[0] if isinstance(each, list) else "")
def test_what_cannot_work_is_one_line(folder, tmp_path, capsys, words, message):
    assert train(folder, tmp_path / "run", "--steps=1", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and len(error) == 1, error
    assert not (tmp_path / "run").exists()


# ---- the picture -----------------------------------------------------------------------------------------------------


def test_the_picture_shows_visible_patches_as_they_are_and_predictions_elsewhere():
    mean, std = Augmentation().mean, Augmentation().std
    images = (torch.rand(2, 3, 32, 32) - 0.5) / 0.5
    for norm_pix in (True, False):
        model = autoencoder(masking=Masking(norm_pix=norm_pix))
        hidden = torch.zeros(2, 16, dtype=torch.bool)
        hidden[:, 5:] = True
        patches = model.patchify(images)
        stats = model.patch_stats(patches)
        right = (patches - stats[0]) / stats[1] if norm_pix else patches
        rows = Reconstructions(images, mean=mean, std=std, seed=0, amp=None)._rows(model, right, hidden)
        assert list(rows) == ["image", "seen", *(["means"] if norm_pix else []), "predicted"]
        assert np.allclose(rows["predicted"], rows["image"], atol=1e-5), "a perfect prediction is the image"
        assert np.allclose(rows["seen"][:, 8:, 8:], 0.5) and np.array_equal(rows["seen"][:, :8], rows["image"][:, :8])
        if norm_pix:
            corner = rows["image"][0, 24:, 24:].mean((0, 1))
            assert np.allclose(rows["means"][0, 24:, 24:], rows["means"][0, 31, 31]), "one level a patch and channel"
            assert np.allclose(rows["means"][0, 31, 31].mean(), corner.mean(), atol=1e-5)
