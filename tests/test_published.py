"""Checkpoints of others: what the files of the field's programs tell, and weights by timm's names. Nothing is fetched.

Every file here is made as the program makes it whose files it stands for: its entries, its arguments, its names.
"""

import argparse
import json
import math
from pathlib import Path

import huggingface_hub
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from PIL import Image
from safetensors.torch import save_file
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver

from fracgen.shards.errors import UsageError
from fracgen.train import compare, finetune, probe
from fracgen.train.engine.build import build
from fracgen.train.engine.init_weights import InitWeights, load_init
from fracgen.train.engine.published import identify, model_by_shapes
from fracgen.train.engine.settings import Model
from fracgen.train.engine.weight_files import WeightFile

ANY = Model(name="", drop_path=0.0)
HALF, IMAGENET = ((0.5,) * 3,) * 2, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = "resnet10t.c3_in1k"


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=1000)


def save_fractal_vit(model, path):
    """As 1p-frac's `train/main.py` and FractalDB-ViT's `pretrain.py` save."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineLRScheduler(optimizer, t_initial=30, warmup_t=5)
    scaler = torch.amp.GradScaler("cpu")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "epoch": 80000,
        },
        path,
    )


def save_by_timm(network, folder, **arguments):
    """As timm's own saver does, which the programs of ExFractalDB, RCDB, VisualAtom and OFDB-21k use."""
    args = argparse.Namespace(input_size=None, img_size=None, mean=None, std=None, lr=1e-3, aa="rand-m9", **arguments)
    saver = CheckpointSaver(network, torch.optim.SGD(network.parameters(), lr=0.1), args, checkpoint_dir=str(folder))
    saver.save_checkpoint(3, metric=1.5)
    return folder / "last.pth.tar"


def check_loaded(init, model, size=224, num_classes=10):
    network, loaded = build(init, num_classes=num_classes, size=size)
    heads = ("head.", "fc.")
    theirs = {key: value for key, value in model.state_dict().items() if not key.startswith(heads)}
    ours = {key: value for key, value in network.state_dict().items() if not key.startswith(heads)}
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(key.startswith(heads) for key in loaded.missing) and loaded.missing


def test_files_of_1p_frac_tell_model_normalisation_and_head(vit, tmp_path):
    path = tmp_path / "vit_tiny_patch16_224_sigma3.5_delta0.1_sample1000_80000ep.pth"
    save_fractal_vit(vit, path)
    init = load_init(str(path), ANY)
    assert (init.model.name, init.size, init.num_classes) == ("vit_tiny_patch16_224", 224, 1000)
    assert (init.mean, init.std) == HALF
    assert init.origin == (
        "entry 'model'; vit_tiny_patch16_224 by its name; head of 1,000 classes; mean 0.5, std 0.5 (pre-training by "
        "1p-frac's, OFDB's and FractalDB-ViT's programs, which save these entries)"
    )
    check_loaded(init, vit)
    path = path.rename(tmp_path / "pretrain_deit_tiny_2d-ofdb1k_patch_lr1.0e-3_epochs80000_bs256-last.pth")
    init = load_init(str(path), ANY)
    assert "vit_tiny_patch16_224 by the shapes of its weights" in init.origin and (init.mean, init.std) == HALF


def test_files_of_timms_saver_tell_by_their_arguments(vit, tmp_path):
    path = save_by_timm(vit, tmp_path, model="deit_tiny_patch16_224")
    init = load_init(str(path), ANY)
    assert init.model.name == "deit_tiny_patch16_224" and (init.mean, init.std) == IMAGENET
    assert "entry 'state_dict'" in init.origin and "by its arguments" in init.origin
    assert "where its arguments leave them open" in init.origin
    check_loaded(init, vit)
    values = torch.load(path, weights_only=False)
    values["args"].mean, values["args"].std, values["args"].input_size = [0.1] * 3, [0.2] * 3, [3, 192, 192]
    values["state_dict"] = {f"module.{key}": value for key, value in values["state_dict"].items()}
    torch.save(values, path)
    init = load_init(str(path), ANY)
    assert (init.mean, init.std, init.size) == ((0.1,) * 3, (0.2,) * 3, 192) and "keys after 'module.'" in init.origin


def test_files_of_deit_tell_by_arguments_or_by_name(vit, tmp_path):
    args = argparse.Namespace(model="deit_tiny_patch16_224", input_size=224, data_path="x")
    torch.save({"model": vit.state_dict(), "args": args}, tmp_path / "best.pth")
    init = load_init(str(tmp_path / "best.pth"), ANY)
    assert init.model.name == "deit_tiny_patch16_224" and (init.mean, init.std) == IMAGENET
    torch.save({"model": vit.state_dict()}, tmp_path / "deit_tiny_patch16_224-a1311bcf.pth")
    init = load_init(str(tmp_path / "deit_tiny_patch16_224-a1311bcf.pth"), ANY)
    assert init.model.name == "deit_tiny_patch16_224" and init.mean is None and "mean and std unknown" in init.origin


def test_files_of_fractaldbs_resnets(tmp_path):
    """torchvision's own network: its keys are those of the program's copy."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 60])
    whole = {"epoch": 91, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**whole, "state_dict": model.state_dict()}, tmp_path / "checkpoint.pth.tar")
    torch.save(model.state_dict(), tmp_path / "FractalDB-1000_resnet18_epoch90.pth")
    torch.save(model.state_dict(), tmp_path / "other.pth")
    for name, mean in (("checkpoint.pth.tar", 0.2), ("FractalDB-1000_resnet18_epoch90.pth", 0.2), ("other.pth", None)):
        init = load_init(str(tmp_path / name), ANY)
        assert init.model.name == "resnet18" and init.num_classes == 1000
        assert init.mean == (mean and (mean,) * 3) and init.std == (mean and (0.5,) * 3)
    check_loaded(init, model, size=64)


def test_the_models_that_are_known_by_shapes():
    """As timm and torchvision name them; a net of another depth is nobody's."""
    vits = [f"vit_{size}_224" for size in ("small_patch16", "base_patch32", "large_patch16", "base_patch8")]
    with torch.device("meta"):
        models = {name: timm.create_model(name) for name in vits}
        models |= {name: getattr(torchvision.models, name)() for name in ("resnet34", "resnet50", "resnet152")}
    states = {name: model.state_dict() for name, model in models.items()}
    assert {name: model_by_shapes(state) for name, state in states.items()} == {name: name for name in states}
    short = {key: value for key, value in states[vits[0]].items() if not key.startswith("blocks.11.")}
    assert model_by_shapes(short) == model_by_shapes({}) == ""


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
NAMES = ("args", "arch", "epoch", "optimizer", "scheduler", "lr_scheduler", "scaler", "model", "state_dict")
KEYS = ("patch_embed.proj.weight", "pos_embed", "cls_token", "head.weight", "fc.weight", "blocks.", "blocks.0.x")
KEYS = (*KEYS, "layer1.", "layer1.0.conv1.weight")


@given(
    arguments=st.dictionaries(
        st.sampled_from(["model", "mean", "std", "input_size", "img_size"]), VALUES | st.lists(VALUES, max_size=4)
    ),
    contents=st.dictionaries(st.sampled_from(NAMES), VALUES),
    shapes=st.dictionaries(
        st.sampled_from([*KEYS, "blocks.", "blocks.0.x", "layer1."]), st.lists(st.integers(0, 5), max_size=4)
    ),
    as_namespace=st.booleans(),
)
@hypothesis.example(
    arguments={}, contents={}, shapes={"patch_embed.proj.weight": [0] * 4, "pos_embed": [0, 1, 0]}, as_namespace=False
)
@hypothesis.example(
    arguments={},
    contents={},
    shapes={"patch_embed.proj.weight": [1, 1, 4097, 4097], "pos_embed": [1, 2, 1]},
    as_namespace=False,
)
@hypothesis.settings(deadline=None, max_examples=300, database=None)
def test_whatever_stands_in_a_file_what_it_tells_can_be_used(arguments, contents, shapes, as_namespace):
    contents |= {"args": argparse.Namespace(**arguments) if as_namespace else arguments}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    origin = identify(WeightFile(path=Path("w.pth"), weights=weights, contents=contents))
    assert (origin.mean is None) == (origin.std is None)
    if origin.mean is not None:
        assert all(map(math.isfinite, (*origin.mean, *origin.std))) and min(origin.std) > 0
    assert origin.size is None or 0 < origin.size <= 4096
    assert origin.model == "" or timm.is_model(origin.model)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub's cache, in which nothing lies; without a net."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub, name, network):
    folder = hub / f"models--timm--{name}" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("0123")


def test_weights_by_timms_names_from_the_cache(hub):
    torch.manual_seed(3)
    network = timm.create_model(SMALL.split(".")[0])
    put(hub, SMALL, network)
    init = load_init(f"timm:{SMALL}", ANY)
    assert (init.model.name, init.num_classes, init.size) == ("resnet10t", 1000, 176)
    assert (init.mean, init.std) == IMAGENET and init.name == f"timm:{SMALL}"
    check_loaded(init, network, size=64)
    assert init.fingerprint() == load_init("timm:resnet10t", ANY).fingerprint(), "the tag that timm takes by itself"


def test_weights_that_cannot_be_had_are_one_line(hub):
    for source, settings, message in (
        (
            f"timm:{SMALL}",
            ANY,
            rf"cannot be had from the Hub or its cache .*timm/{SMALL} --local-dir FOLDER",
        ),
        ("timm:resnet10t", ANY, rf"hf download timm/{SMALL} "),
        ("timm:resnet10x", ANY, "has no model 'resnet10x', did you mean 'resnet10t'"),
        ("timm:resnet10t.c4", ANY, f"no such weights; give one of timm:{SMALL}"),
        ("timm:", ANY, "has no model ''"),
        (f"timm:{SMALL}", Model(name="resnet18"), "--model resnet18: .* leave --model out"),
        (f"timm:{SMALL}", Model(name="", options={"stem_width": 8}), "leave out stem_width"),
        (f"timm:{SMALL}", Model(name="", init="mimetic"), "is for starts from scratch"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            load_init(source, settings)
        assert "\n" not in str(caught.value)
    hub.mkdir()
    put(hub, SMALL, timm.create_model("resnet18"))
    with pytest.raises(UsageError, match="cannot be had from the Hub or its cache"):  # another network's weights
        load_init(f"timm:{SMALL}", ANY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 4):
        path = folder / ("train", "test")[split] / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


SHORT = ["--steps=1", "--batch-size=2", "--workers=0", "--device=cpu", "augment.size=32", "val_share=0", "mix.mixup=0",
         "mix.cutmix=0"]  # fmt: skip


def test_fine_tuning_tells_what_the_checkpoint_is_and_warns_of_another_normalisation(vit, images, tmp_path, capsys):
    path = tmp_path / "w.pth"
    save_fractal_vit(vit, path)
    words = ["--checkpoint", str(path), "--data", str(images), "--out", str(tmp_path / "run"), *SHORT]
    assert finetune.run(words) == 0
    shown = capsys.readouterr().err
    assert "weights   entry 'model'; vit_tiny_patch16_224 by the shapes" in shown
    assert f"{path} was trained with mean 0.5, std 0.5, and is fine-tuned with mean 0.485 0.456 0.406, std" in shown
    keep = ["augment.mean=[0.5, 0.5, 0.5]", "augment.std=[0.5, 0.5, 0.5]"]
    assert all(f"'{each}'" in shown for each in keep)
    assert finetune.run([*words[: -len(SHORT) - 1], str(tmp_path / "kept"), *SHORT, *keep]) == 0
    assert "was trained with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "std", "warned"),
    [(0.5, 0.5, False), (0.502, 0.5, False), (0.5, 0.25, True), (0.4, 0.5, True), (None, None, False)],
)
def test_any_other_number_is_warned_of(mean, std, warned):
    trained = {"mean": mean and (mean,) * 3, "std": std and (0.5, 0.5, std)}
    init = InitWeights(name="w.pth", model=ANY, **trained)
    assert bool(init.normalisation_warning(*HALF)) == warned and "\n" not in init.normalisation_warning(*HALF)


def test_probes_and_comparisons_take_timms_names(images, hub, tmp_path, capsys, monkeypatch):
    put(hub, SMALL, timm.create_model("resnet10t"))
    words = ["--checkpoint", f"timm:{SMALL}", "--data", str(images), "--out", str(tmp_path / "probe"), "--k=2"]
    assert probe.run([*words, "--size=64", "--no-random", "--device=cpu"]) == 0
    assert f"{SMALL}: head of 1,000 classes; mean 0.485 0.456 0.406" in capsys.readouterr().err
    (net,) = json.loads((tmp_path / "probe" / "probe.json").read_text())["nets"]
    assert net["name"] == SMALL and net["mean"] == list(IMAGENET[0])
    started = []
    monkeypatch.setattr(compare, "run_comparison", lambda comparison, *_: started.append(comparison) or {"tables": []})
    monkeypatch.setattr(compare, "to_text", lambda report: "")
    starts = ["--start", "scratch=none", "--start", f"timm=timm:{SMALL}"]
    assert compare.run([*starts, "--data", str(images), "--out", str(tmp_path / "compare"), *SHORT[-4:]]) == 0
    scratch, pretrained, *_ = (started[0].argv(run) for run in started[0].runs())
    assert scratch[scratch.index("--model") + 1] == "resnet10t" and "--model" not in pretrained
    assert pretrained[pretrained.index("--checkpoint") + 1] == f"timm:{SMALL}"
