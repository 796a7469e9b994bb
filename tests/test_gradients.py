"""Gradients by parts of the batch: those of the whole one, the same bits each time, and only where that is allowed."""

import pytest
import timm
import torch
from test_pretrain import same, train, weights
from torch import nn

from fracgen.train.engine import gradients
from fracgen.train.engine.losses import cross_entropy
from fracgen.train.ranks import Ranks


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(gradients, "_FEWEST", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def vit(**options):
    torch.manual_seed(0)
    options = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, **options}
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **options)


def results(network, *, amp=None):
    """Loss and gradients of a batch of 7, and the state of torch's generator afterwards."""
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(7, 3, 32, 32, generator=generator), torch.rand(7, 5, generator=generator)
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    take = gradients.gradients_of(network, cross_entropy, amp, ranks, compiled=False)
    torch.manual_seed(2)
    loss = take(images, targets, lambda value: 2 * value)
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), **found, "generator": torch.get_rng_state()}


def test_parts_give_what_the_whole_batch_gives(three_threads, monkeypatch):
    network = vit()
    network.unused = nn.Linear(2, 2)
    by_parts = results(network)
    assert same(by_parts, results(network)) and "unused.weight" not in by_parts
    monkeypatch.setattr(gradients, "_takes_each_by_itself", lambda *_: False)
    network.zero_grad()
    whole = results(network)
    assert by_parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(by_parts[name], value, rtol=1e-4, atol=1e-6)
    assert torch.get_num_threads() == 3


def test_parts_in_bf16_are_near_those_in_fp32(three_threads):
    one, other = results(vit()), results(vit(), amp=torch.bfloat16)
    torch.testing.assert_close(other["loss"], one["loss"], rtol=0.02, atol=0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: vit(drop_path_rate=0.5),
        lambda: vit(proj_drop_rate=0.5),
        lambda: timm.create_model("resnet10t", num_classes=5),
    ],
    ids=["drop path", "dropout", "batch norm"],
)
def test_draws_and_batch_norm_need_the_whole_batch(three_threads, monkeypatch, make):
    torch.manual_seed(0)
    network = make()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    one = results(network)
    after = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    network.zero_grad()
    monkeypatch.setattr(gradients, "_ByParts", lambda network, loss, amp, _: gradients._whole(network, loss, amp))
    assert same(one, results(network)) and same(after, network.state_dict())


def test_a_run_by_parts_goes_on_bit_for_bit(three_threads, folder, tmp_path):
    options = ["--steps=4", "model.drop_path=0"]
    assert train(folder, tmp_path / "straight", *options) == 0
    assert train(folder, tmp_path / "paused", *options, "--stop-after=2") == 0
    assert train(folder, tmp_path / "paused", *options) == 0
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "paused"))
