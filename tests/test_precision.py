"""What a device computes in: the rule of `auto`, what is said of it, and what bf16 on a CPU changes in a net."""

from types import SimpleNamespace

import pytest
import timm
import torch
from test_pretrain import train, weights

from fracgen.shards.errors import UsageError
from fracgen.train.engine.checkpoint import load
from fracgen.train.engine.precision import choose_attention, is_emulated, resolve

CPU = torch.device("cpu")
NAMES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.fixture
def cpu(monkeypatch):
    """Sets what the CPU says of itself: (avx512_bf16, amx), None where torch has no such question; and its kind."""

    def set_up(*answers, machine="x86_64"):
        monkeypatch.setattr("platform.machine", lambda: machine)
        for name, answer in zip(NAMES, answers, strict=True):
            if answer is None:
                monkeypatch.delattr(torch.cpu, name, raising=False)
            else:
                monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)

    return set_up


@pytest.mark.parametrize(
    ("answers", "machine", "auto", "emulated"),
    [
        ((False, False), "x86_64", "fp32", True),
        ((True, False), "x86_64", "bf16", False),
        ((True, True), "AMD64", "bf16", False),
        ((False, True), "x86_64", "bf16", False),
        ((False, None), "x86_64", "fp32", True),
        ((None, None), "x86_64", "fp32", False),
        ((True, True), "aarch64", "fp32", False),
    ],
)
def test_auto_is_bf16_where_the_cpu_has_it(cpu, answers, machine, auto, emulated):
    cpu(*answers, machine=machine)
    assert resolve("auto", CPU) == auto
    assert (resolve("bf16", CPU), resolve("fp32", CPU)) == ("bf16", "fp32"), "what is given holds"
    assert is_emulated("bf16", CPU) == emulated
    assert not is_emulated("fp32", CPU) and not is_emulated("bf16", torch.device("cuda"))


@pytest.mark.parametrize(("major", "auto"), [(7, "fp16"), (8, "bf16"), (9, "bf16")])
def test_auto_is_bf16_where_the_gpu_has_it(monkeypatch, major, auto):
    """Cores for bf16 came with compute capability 8; torch emulates it before, and says then that it is supported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    gpu = torch.device("cuda")
    assert resolve("auto", gpu) == auto
    assert (resolve("bf16", gpu), resolve("fp16", gpu)) == ("bf16", "fp16"), "what is given holds"


def test_fp16_is_for_gpus():
    with pytest.raises(UsageError, match="fp16: is for GPUs"):
        resolve("fp16", CPU)


def test_bf16_that_a_cpu_emulates_is_said_and_auto_does_not_take_it(cpu, folder, tmp_path, capsys):
    for number, (has, given, used) in enumerate(
        [(False, "bf16", "bf16"), (True, "bf16", "bf16"), (True, "auto", "bf16"), (False, "auto", "fp32")]
    ):
        cpu(has, has)
        assert train(folder, tmp_path / f"{number}", "--steps=1", f"--precision={given}", "run.clean_images=0") == 0
        err = capsys.readouterr().err
        assert f"{used} on CPU" in err
        assert ("emulated by this CPU" in err) == (used == "bf16" and not has)
        assert load(tmp_path / f"{number}" / "last.pt").config["run"]["precision"] == used


@pytest.mark.parametrize("has", [True, False])
def test_a_run_goes_on_as_it_was_begun_on_another_cpu(cpu, folder, tmp_path, capsys, has):
    """`auto` is resolved once: a CPU that only emulates bf16 says so, and ends with the same bits."""
    out, straight = tmp_path / "run", tmp_path / "straight"
    used = "bf16" if has else "fp32"
    assert train(folder, straight, "--steps=4", f"--precision={used}") == 0
    cpu(has, has)
    assert train(folder, out, "--steps=4", "--stop-after=2") == 0
    cpu(not has, not has)
    capsys.readouterr()
    assert train(folder, out, "--steps=4") == 0
    err = capsys.readouterr().err
    assert f"{used} on CPU" in err and ("emulated" in err) == has
    assert all(torch.equal(weights(out)[name], value) for name, value in weights(straight).items())
    assert train(folder, out, "--steps=4", f"--precision={'fp32' if has else 'bf16'}") == 2
    assert "precision" in capsys.readouterr().err.splitlines()[-1]


def test_attention_of_a_cpu_in_bf16_is_the_same_function():
    """The products are the fused kernel, in float32 to rounding; only bf16 on a CPU takes them."""

    def vit():
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5).eval()

    images = torch.randn(4, 3, 32, 32)
    fused, products = vit(), vit()
    choose_attention(products, torch.bfloat16, CPU)
    for dtype, device in ((None, CPU), (torch.bfloat16, torch.device("cuda")), (torch.float16, torch.device("cuda"))):
        choose_attention(fused, dtype, device)
    assert all(block.attn.fused_attn for block in fused.blocks)
    assert not any(block.attn.fused_attn for block in products.blocks)
    torch.testing.assert_close(products(images), fused(images), rtol=0, atol=1e-5)
    products(images).square().mean().backward()
    fused(images).square().mean().backward()
    for (name, one), other in zip(products.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-5, msg=name)
