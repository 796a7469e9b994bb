"""What a run takes, counted before it is begun; too little memory, said before the first step."""

import json

import pytest
import timm
import torch

from fracgen.shards.errors import UsageError
from fracgen.train import dyck, finetune, mae, pretrain
from fracgen.train.augment.settings import Augmentation
from fracgen.train.engine import model as models
from fracgen.train.engine import step_cost
from fracgen.train.engine.settings import Optim, Run
from fracgen.train.engine.step_cost import StepCost, count
from fracgen.train.pretrain import Pretraining
from fracgen.train.ranks import Ranks

TINY = ["augment.size=32", "--device=cpu", "--workers=0", "--batch-size=16"]
TINY += [f"model.options.{each}" for each in ("patch_size=8", "depth=2", "embed_dim=32", "num_heads=2")]


def cost_of(name, *, size=224, amp=None, optim=None, num_ranks=1, again=False, **options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    models.checkpoint_activations(model, Run(grad_checkpointing=again), name)
    optim = optim or Optim()
    return count(model, optim, size=size, amp=amp, num_ranks=num_ranks, grad_checkpointing=again)


@pytest.mark.parametrize(
    ("name", "gigaflops"), [("vit_base_patch16_224", 35.1), ("resnet50", 8.18), ("convnext_tiny", 8.91)]
)
def test_flops_are_those_of_the_papers(name, gigaflops):
    """17.6 (ViT-B/16 with its attention), 4.1 and 4.5 billion multiplications and additions, two FLOPs each."""
    assert cost_of(name).flops / 1e9 == pytest.approx(gigaflops, rel=0.01)


def test_weights_are_counted_with_what_is_kept_for_each():
    parameters = sum(each.numel() for each in timm.create_model("resnet18").parameters())

    def copies(**changes):
        return round(cost_of("resnet18", **changes).weights / parameters / 4)

    assert copies(optim=Optim(name="sgd")) == 3, "weights, gradients, momentum"
    assert copies(optim=Optim()) == 4 and copies(optim=Optim(ema=0.9)) == 5 and copies(num_ranks=8) == 5


def test_activations_are_those_that_autograd_keeps():
    """Counted on real tensors, for two sizes of a batch."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)

    def kept(batch_size):
        storages = {}
        own = {each.untyped_storage().data_ptr() for each in model.parameters()}

        def keep(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(torch.zeros(batch_size, 3, 32, 32))
        assert logits.requires_grad
        return sum(storage.nbytes() for storage in storages.values())

    counted = count(model, Optim(), size=32, amp=None, num_ranks=1, grad_checkpointing=False)
    assert counted.activations == (kept(12) - kept(4)) // 8


def test_computing_again_and_bf16_take_less():
    options = {"num_classes": 10}
    plain, again = (cost_of("vit_base_patch16_224", again=each, **options) for each in (False, True))
    bf16 = cost_of("vit_base_patch16_224", amp=torch.bfloat16, **options)
    assert again.activations < plain.activations / 4 and again.flops == plain.flops
    assert bf16.activations < 0.6 * plain.activations and bf16.weights == plain.weights


def test_an_h200_took_as_much_as_is_counted():
    """ViT-Tiny/16 in batches of 512: 10.1 to 10.4 GB (docs/benchmarks.md)."""
    cost = cost_of("vit_tiny_patch16_224", amp=torch.bfloat16, drop_path_rate=0.1)
    assert cost.memory(512) < 10.1e9 and cost.usual_memory(512) == pytest.approx(10.3e9, rel=0.05)


def test_what_would_fit():
    cost = StepCost(flops=1, weights=100, activations=10, casts=0, image=1)
    assert cost.memory(64) == 100 + 640 + 64 and cost.memory(64, accumulate=4) == 100 + 160 + 64
    for free in (150, 500, 600, 800, 10_000):
        parts, batch = cost.fitting_parts(64, free), cost.fitting_batch(free)
        assert not parts or (64 % parts == 0 and cost.usual_memory(64, parts) <= free)
        assert batch % 2 == 0 and (not batch or cost.usual_memory(batch) <= free + 2 < cost.usual_memory(batch + 2) + 2)
    assert cost.fitting_parts(64, 100) == 0 and cost.fitting_batch(100) == 0


def test_too_little_memory_is_said_before_the_first_step(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step_cost, "free_memory", lambda device: 1_300_000)
    arguments = [f"--shards={folder}", "--steps=2", *TINY, "run.clean_images=8"]
    assert pretrain.run([*arguments, f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "a batch of 16 on each process takes about" in error and "run.accumulate=" in error, error
    assert "--batch-size" in error and "run.grad_checkpointing=true takes less" in error
    assert not (tmp_path / "run" / "last.pt").exists()
    parts = error.split("run.accumulate=")[1].split(" ")[0]
    assert pretrain.run([*arguments, f"--out={tmp_path / 'run'}", f"run.accumulate={parts}"]) == 0


@pytest.mark.parametrize("program", [mae, dyck])
def test_other_protocols_are_counted_too(program, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step_cost, "free_memory", lambda device: 300_000)
    data = [f"--shards={folder}", "--workers=0", "decoder.width=16", "decoder.depth=1", "decoder.heads=2"]
    words = [each for each in TINY if "workers" not in each] + (data if program is mae else ["brackets.types=8"])
    assert program.run([*words, "--steps=2", f"--out={tmp_path / 'run'}"]) == 2
    assert "a batch of 16 on each process takes about" in capsys.readouterr().err


def test_patches_of_two_pixels_take_3000_times_the_bytes_of_an_image(monkeypatch):
    monkeypatch.setattr(step_cost, "free_memory", lambda device: 4_000_000_000)
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=2)
    settings, ranks = Pretraining(augment=Augmentation(size=32)), Ranks(rank=0, world=1, device=torch.device("cpu"))
    with pytest.raises(UsageError, match="a batch of 256 on each process takes about"):
        step_cost.check_memory(model, settings, ranks, None)


def test_a_model_that_cannot_be_counted_is_not_refused(monkeypatch):
    monkeypatch.setattr(step_cost, "free_memory", lambda device: 1)
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    step_cost.check_memory(torch.nn.Linear(3, 3), Pretraining(), ranks, None)
    with pytest.raises(UsageError, match="of memory, and"):
        step_cost.check_memory(timm.create_model("resnet18"), Pretraining(), ranks, None)


def test_an_estimate_opens_no_data_where_the_settings_say_all(capsys):
    words = ["--estimate", "--json", "--num-classes=7", "--samples=1600", *TINY]
    assert pretrain.run(words) == 0
    shown = capsys.readouterr()
    values = json.loads(shown.out)
    assert values["steps"] == 100 and values["samples"] == 1600 and values["utilisation"] == 0.15
    assert values["total_flops"] == pytest.approx(3 * 1600 * values["forward_gflops_per_image"] * 1e9, rel=0.01)
    assert values["hours_here"] == pytest.approx(1600 / values["images_per_second_here"] / 3600, rel=0.02)
    seconds = values["total_flops"] / (8 * 989e12 * 0.15) + 1600 / 53_749 / 8
    assert values["hours_on_8_h100"] == pytest.approx(seconds / 3600, rel=0.02)
    assert "an estimate: " in shown.err and "which ViT-Tiny/16 takes on an H200" in shown.err
    assert pretrain.run([*words, "run.grad_checkpointing=true"]) == 0
    assert json.loads(capsys.readouterr().out)["total_flops"] == pytest.approx(values["total_flops"] * 4 / 3, rel=0.01)


def test_an_estimate_from_the_data(folder, capsys):
    assert pretrain.run(["--estimate", "--json", f"--shards={folder}", "--epochs=4", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 96, "24 images, in batches of 16"
    assert pretrain.run(["--estimate", "--epochs=4", *TINY]) == 2
    assert "give --num-classes with --samples or --steps, or the data" in capsys.readouterr().err
    assert finetune.run(["--estimate", "--num-classes=5", *TINY]) == 2
    assert finetune.run(["--estimate", "--json", "--num-classes=5", "--steps=3", *TINY]) == 0
    capsys.readouterr()
