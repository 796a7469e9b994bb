"""What a net begins with: whose weights, whose head, and what is refused."""

import argparse
import json
import warnings
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import timm
import torch
from hypothesis import given
from safetensors.torch import save_file

from fracgen.shards.errors import UsageError
from fracgen.train.engine import model as models
from fracgen.train.engine.build import build
from fracgen.train.engine.init_weights import load_init
from fracgen.train.engine.settings import Model

OPTIONS = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
TINY = Model(name="vit_tiny_patch16_224", drop_path=0.0, options=OPTIONS)
HEAD = ("head.bias", "head.weight")


def tiny(num_classes=7, size=32, seed=1):
    torch.manual_seed(seed)
    return models.create(TINY, num_classes=num_classes, size=size)


def exported(model, folder, options=OPTIONS, size=32):
    stats = (0.5, 0.5, 0.5)
    models.export(model, folder, size=size, mean=stats, std=stats, tag="t", options=options)
    return str(folder)


def same_body(one, other, head="head."):
    one, other = ({k: v for k, v in each.items() if not k.startswith(head)} for each in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_exactly_the_head_is_fresh(tmp_path):
    old = tiny(7)
    init = load_init(exported(old, tmp_path / "run" / "model").removesuffix("/model"), Model(name=""))
    assert init.model.name == TINY.name and init.model.options.items() >= OPTIONS.items()
    assert (init.num_classes, init.size, init.mean) == (7, 32, (0.5, 0.5, 0.5))
    for num_classes in (3, 7):
        torch.manual_seed(2)
        network, loaded = build(init, num_classes=num_classes, size=32)
        assert loaded.missing == loaded.unexpected == HEAD and not loaded.kept_head and loaded.resized == ()
        assert same_body(network.state_dict(), old.state_dict())
        assert network.head.out_features == num_classes
        if num_classes == 7:
            assert not torch.equal(network.head.weight, old.head.weight)
    assert loaded.description == "head: new (7 classes), all other weights loaded"


def test_a_head_that_fits_is_kept_where_asked_for(tmp_path):
    old = tiny(7)
    init = load_init(exported(old, tmp_path / "m"), Model(name=""))
    network, loaded = build(init, num_classes=7, size=32, keep_head=True)
    assert loaded.kept_head and loaded.missing == loaded.unexpected == () and "head kept" in loaded.description
    assert same_body(network.state_dict(), old.state_dict(), head="nothing")
    _, loaded = build(init, num_classes=3, size=32, keep_head=True)
    assert not loaded.kept_head and loaded.missing == loaded.unexpected == HEAD


def test_the_fresh_head_depends_on_torchs_seed_alone(tmp_path):
    init = load_init(exported(tiny(), tmp_path / "m"), Model(name=""))
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(build(init, num_classes=3, size=32)[0].head.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_position_embeddings_are_resampled_as_timm_does(tmp_path):
    old = tiny(size=32)
    init = load_init(exported(old, tmp_path / "m"), Model(name=""))
    network, loaded = build(init, num_classes=7, size=48)
    by_timm = timm.create_model(f"local-dir:{tmp_path}/m", pretrained=True, img_size=48)
    assert loaded.resized == ("pos_embed",) and network.pos_embed.shape == (1, 1 + 36, 32)
    assert torch.equal(network.pos_embed, by_timm.pos_embed) and "(pos_embed resized)" in loaded.description


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module.model.", "backbone."])
@pytest.mark.parametrize("entry", ["model", "state_dict", None])
def test_published_files(tmp_path, prefix, entry):
    old = tiny(7)
    weights = {prefix + key: value for key, value in old.state_dict().items()}
    whole = {entry: weights, "epoch": 299, "args": argparse.Namespace(model="x", lr=[1.0]), "optimizer": {"state": {}}}
    torch.save(whole if entry else weights, tmp_path / "published.pth")
    init = load_init(str(tmp_path / "published.pth"), TINY)
    network, loaded = build(init, num_classes=3, size=32)
    assert same_body(network.state_dict(), old.state_dict()) and loaded.missing == loaded.unexpected == HEAD


def test_a_file_of_safetensors(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    assert build(load_init(str(tmp_path / "w.safetensors"), TINY), num_classes=2, size=32)[1].missing == HEAD


def test_a_published_file_is_vit_tiny_where_nothing_is_said(tmp_path):
    torch.save({"model": tiny().state_dict()}, tmp_path / "w.pth")
    assert load_init(str(tmp_path / "w.pth"), Model(name="")).model.name == "vit_tiny_patch16_224"


def test_residual_networks(tmp_path):
    settings = Model(name="resnet10t", drop_path=0.0)
    old = models.create(settings, num_classes=7, size=32)
    init = load_init(exported(old, tmp_path / "m", {}), Model(name="", drop_path=0.0))
    network, loaded = build(init, num_classes=3, size=64)
    assert loaded.missing == loaded.unexpected == ("fc.bias", "fc.weight")
    assert same_body(network.state_dict(), old.state_dict(), head="fc.")


def test_from_scratch():
    init = load_init("none", Model(name=""))
    assert init.model.name == "vit_tiny_patch16_224" and init.weights is None
    _, loaded = build(load_init("none", TINY), num_classes=3, size=32)
    assert loaded.fresh and loaded.description == "all weights new"


def test_fingerprints_follow_every_weight(tmp_path):
    model = tiny()
    prints = [load_init(exported(model, tmp_path / "a"), Model(name="")).fingerprint()]
    prints.append(load_init(exported(model, tmp_path / "b"), Model(name="")).fingerprint())
    with torch.no_grad():
        model.blocks[1].norm1.bias[3] += 1e-6
    prints.append(load_init(exported(model, tmp_path / "c"), Model(name="")).fingerprint())
    prints.append(load_init("none", TINY).fingerprint())
    assert prints[0] == prints[1] and len(set(prints)) == 3


def refused(kind, message, where, settings=TINY, **options):
    with pytest.raises(kind, match=message) as caught:
        build(load_init(str(where), settings), **{"num_classes": 3, "size": 32, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_architectures_are_told_by_their_keys(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    path = tmp_path / "w.pth"
    error = refused(UsageError, "another architecture", path, Model(name="resnet10t", drop_path=0.0))
    assert "missing bn1.bias" in error and "unexpected blocks.0.attn" in error and "more" in error
    deeper = Model(name=TINY.name, drop_path=0.0, options={**OPTIONS, "depth": 3})
    assert "missing blocks.2.attn.proj.bias" in refused(UsageError, "another architecture", path, deeper)
    shallower = Model(name=TINY.name, drop_path=0.0, options={**OPTIONS, "depth": 1})
    assert "unexpected blocks.1.attn.proj.bias" in refused(UsageError, "another architecture", path, shallower)
    wider = Model(name=TINY.name, drop_path=0.0, options={**OPTIONS, "embed_dim": 64})
    assert "of another shape" in refused(UsageError, "another architecture", path, wider)
    refused(UsageError, "another architecture", path, Model(name=TINY.name))


def test_a_model_that_is_not_the_checkpoints(tmp_path):
    where = exported(tiny(), tmp_path / "m")
    refused(UsageError, r"--model resnet18: .* holds vit_tiny", where, Model(name="resnet18"))
    refused(UsageError, "patch_size 8, not 4", where, Model(name="", options={"patch_size": 4}))


def test_what_is_no_checkpoint(tmp_path):
    refused(UsageError, "no such file or folder", tmp_path / "nothing")
    refused(UsageError, "no config.json", tmp_path)
    (tmp_path / "last.pt").write_bytes(b"")
    refused(UsageError, "has not ended", tmp_path)
    refused(UsageError, "no weights that torch or safetensors can read", tmp_path / "last.pt")
    for number, content in enumerate(({}, {"epoch": 3}, [1], {"model": {"a": 1}})):
        torch.save(content, tmp_path / f"{number}.pth")
        refused(UsageError, "no state dict", tmp_path / f"{number}.pth")
    assert "it holds 'epoch'" in refused(UsageError, "no state dict", tmp_path / "1.pth")
    (tmp_path / "x.safetensors").write_bytes(b"none")
    refused(UsageError, "no weights that torch or safetensors can read", tmp_path / "x.safetensors")
    torch.save({"model": tiny().state_dict(), "more": [1, 2]}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-2000])
    refused(UsageError, "no weights that torch or safetensors can read", tmp_path / "cut.pth")


def test_a_class_that_torch_refuses_is_named_with_the_mend(tmp_path):
    torch.save({"model": tiny().state_dict(), "args": argparse.Namespace(out=Path("x"))}, tmp_path / "path.pth")
    torch.save(tiny(), tmp_path / "whole.pth")
    for file, kind in {"path": r"pathlib\.PosixPath", "whole": r"timm\.models\.vision_transformer"}.items():
        message = refused(UsageError, f"holds a {kind}", tmp_path / f"{file}.pth")
        assert "torch.save(model.state_dict(), FILE)" in message and "weights_only" not in message
        assert message.isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"hello world\n", "no weights that torch or safetensors can read"),
    ],
)
def test_files_that_stand_for_weights(tmp_path, content, message):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert "weights_only" not in refused(UsageError, message, tmp_path / name)


def test_entries_of_a_file(tmp_path):
    one, other = tiny(seed=1), tiny(seed=2)
    torch.save({"model_ema": one.state_dict(), "epoch": 3}, tmp_path / "ema.pth")
    init = load_init(str(tmp_path / "ema.pth"), TINY)
    assert init.name.endswith("ema.pth:model_ema"), "what was taken is said"
    assert same_body(build(init, num_classes=3, size=32)[0].state_dict(), one.state_dict())
    dino = {
        name: {
            **{
                f"{prefix}backbone.{key}": value
                for key, value in net.state_dict().items()
                if not key.startswith("head.")
            },
            f"{prefix}head.mlp.0.weight": torch.zeros(3, 3),
        }
        for name, net, prefix in (("teacher", one, ""), ("student", other, "module."))
    }
    torch.save({**dino, "epoch": 3}, tmp_path / "dino.pth")
    message = refused(UsageError, "no state dict", tmp_path / "dino.pth")
    assert "dino.pth:teacher" in message and "dino.pth:student" in message
    refused(UsageError, r"no state dict 'epoch'; give one of .*dino\.pth:teacher", f"{tmp_path}/dino.pth:epoch")
    for name, net in (("teacher", one), ("student", other)):
        network, loaded = build(load_init(f"{tmp_path}/dino.pth:{name}", TINY), num_classes=3, size=32)
        assert same_body(network.state_dict(), net.state_dict()) and loaded.missing == HEAD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "patch_size 0: must be 1 or more"),
        ({"num_heads": 0}, "num_heads 0: must be 1 or more"),
        ({"num_heads": 5}, "dim should be divisible"),
        ({"norm_layer": "x"}, "KeyError"),
        ({"act_layer": 3}, "not callable"),
        ({"patch_size": [8]}, "IndexError"),
        ({"features_only": True}, "without a classifier"),
        ({"depth": 1_000_000}, "depth 1000000: must be at most 1,000"),
        ({"mlp_ratio": 1e300}, "must be at most 1,000,000"),
        ({"mlp_ratio": float("nan")}, "must be at most 1,000,000"),
        ({"in_chans": 1}, "takes no images of 32 x 32"),
        ({"patch_size": 7}, "patches of 7 x 7 pixels do not fill an image of 32 x 32; give a size of 28 or 35"),
    ],
)
def test_options_with_which_no_model_is_made(options, message):
    settings = Model(name=TINY.name, drop_path=0.0, options={**OPTIONS, **options})
    for refuse in (lambda: models.check(settings, size=32), lambda: models.create(settings, num_classes=2, size=32)):
        with pytest.raises(UsageError, match=message) as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_memory_that_is_short_is_not_the_models_fault(monkeypatch):
    def short(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(timm, "create_model", short)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        models.create(TINY, num_classes=2, size=32)


@pytest.mark.parametrize("old_format", [False, True])
def test_damaged_files_are_refused_or_read(tmp_path, old_format):
    """Cut, or with a few bytes changed, at any place: UsageError of one line, or weights; nothing else."""
    small = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4)}, "epoch": 3}
    path, good = tmp_path / "w.pth", tmp_path / "good.pth"
    torch.save(small, good, _use_new_zipfile_serialization=not old_format)
    content = good.read_bytes()

    @given(data=st.data())
    @hypothesis.settings(deadline=None, max_examples=300, database=None)
    def check(data):
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(changed[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else changed)
        try:
            load_init(str(path), TINY)
        except UsageError as error:
            assert "\n" not in str(error) and "weights_only" not in str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()


@pytest.mark.parametrize(
    "config",
    [
        *("", "[]", "{}", '{"architecture": "vit_tiny_patch16_224", "num_classes": "x"}'),
        '{"architecture": 5, "num_classes": 2}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 2, "pretrained_cfg": {"mean": 5}}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 2, "pretrained_cfg": {"std": [1, "x", 2]}}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 2, "pretrained_cfg": {"input_size": [3, "x", 2]}}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 2, "pretrained_cfg": 7}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 2, "model_args": [1]}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": null}',
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 1e400}',
    ],
)
def test_damaged_timm_folders(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    refused(UsageError, "no model of timm's", tmp_path)


def test_a_timm_folder_without_weights(tmp_path):
    config = {"architecture": TINY.name, "num_classes": 7, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(UsageError, "has no model.safetensors", tmp_path, Model(name=""))
