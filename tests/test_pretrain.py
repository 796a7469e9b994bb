"""`python train/pretrain.py`, as a user runs it: tiny models at 32 pixels."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import webdataset
import yaml
from conftest import killed_run, small_recipe, torchrun, two_processes
from PIL import Image

from fracgen.render_shards import plan, write_shards
from fracgen.train import pretrain
from fracgen.train.engine import metrics
from fracgen.train.engine.checkpoint import load
from fracgen.train.engine.precision import cpu_has_bf16

ROOT = Path(__file__).parents[1]
TINY = [
    "--model=vit_tiny_patch16_224",
    "--batch-size=8",
    "--device=cpu",
    "--workers=0",
    "augment.size=32",
    "run.clean_images=24",
    *(f"model.options.{name}" for name in ("patch_size=8", "depth=2", "embed_dim=32", "num_heads=2")),
]


def run(*arguments) -> int:
    return pretrain.run([str(argument) for argument in arguments])


def train(shards, out, *arguments) -> int:
    return run("--shards", shards, "--out", out, *TINY, *arguments)


def weights(out):
    return load(out / "last.pt").model


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """A run of 20 steps, not to be changed."""
    out = tmp_path_factory.mktemp("run") / "straight"
    assert train(folder, out, "--steps=20", "run.log_every=5") == 0
    return out


def test_a_run_leaves_what_it_promises(straight, folder, capsys):
    assert {path.name for path in straight.iterdir()} == {
        ".lock", "config.yaml", "metrics.jsonl", "curves.png", "last.pt", "model"
    }  # fmt: skip
    config = yaml.safe_load((straight / "config.yaml").read_text())
    assert config["schedule"]["steps"] == 20 and config["num_classes"] == 24 and config["loader"]["mode"] == "memory"
    assert config["run"]["precision"] == ("bf16" if cpu_has_bf16() else "fp32") and config["run"]["device"] == "cpu"
    lines = metrics.read(straight / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    for line in lines:
        assert 2 < line["loss"] < 4 and line["lr"] > 0 and line["images_per_second"] > 0
        assert line["samples"] == 8 * line["step"]
    assert 0 <= lines[-1]["clean_accuracy"] <= 1 and 0 <= lines[-1]["crop_accuracy"] <= 1
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_plain_timm_loads_the_model(straight):
    model = timm.create_model(f"local-dir:{straight}/model", pretrained=True, num_classes=10)
    trained = weights(straight)
    assert model.head.out_features == 10 and torch.equal(
        model.blocks[1].mlp.fc1.weight, trained["blocks.1.mlp.fc1.weight"]
    )
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    whole = timm.create_model(f"local-dir:{straight}/model", pretrained=True)
    assert same(whole.state_dict(), trained)
    config = json.loads((straight / "model" / "config.json").read_text())["pretrained_cfg"]
    assert config["mean"] == [0.5] * 3 and config["std"] == [0.5] * 3 and config["input_size"] == [3, 32, 32]
    assert config["license"] == "mit" and config["tag"].startswith("fracgen_")


@pytest.mark.parametrize(
    "options", [[], ["--loader=stream"], ["--augment=timm", "--workers=2"], ["--precision=bf16"]], ids=str
)
def test_a_paused_run_goes_on_bit_for_bit(folder, tmp_path, options, straight):
    if options:
        assert train(folder, tmp_path / "straight", "--steps=20", *options) == 0
        straight = tmp_path / "straight"
    for stop_after in ("--stop-after=7", "--stop-after=10", "--stop-after=0"):
        assert train(folder, tmp_path / "paused", "--steps=20", stop_after, *options) == 0
    assert same(weights(straight), weights(tmp_path / "paused"))
    assert load(tmp_path / "paused" / "last.pt").step == 20
    losses = [
        {line["step"]: line["loss"] for line in metrics.read(out / "metrics.jsonl")}
        for out in (straight, tmp_path / "paused")
    ]
    assert losses[1][10] > 0 and 20 in losses[0] and 20 in losses[1]


def test_the_seed_decides_everything(folder, tmp_path, straight):
    assert train(folder, tmp_path / "again", "--steps=20", "--workers=3", "run.log_every=3") == 0
    assert train(folder, tmp_path / "other", "--steps=20", "--seed=1") == 0
    assert same(weights(straight), weights(tmp_path / "again"))
    assert not same(weights(straight), weights(tmp_path / "other"))


def test_it_learns(tmp_path):
    """Eight perturbations of a fractal are told apart after a few seconds, unaugmented."""
    write_shards(
        small_recipe(classes=8, delta=0.3), tmp_path / "set", layout=plan(small_recipe(classes=8), num_shards=2)
    )
    easy = ["mix.mixup=0", "mix.cutmix=0", "augment.rand_augment=''", "augment.color_jitter=0", "augment.erase=0"]
    crop = ["augment.scale=[0.9, 1]", "augment.hflip=0", "augment.vflip=0", "model.drop_path=0"]
    assert train(tmp_path / "set", tmp_path / "run", "--steps=600", "--lr=0.1", *easy, *crop) == 0
    last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["clean_accuracy"] >= 0.5 and last["crop_accuracy"] >= 0.4, last  # chance is 0.125


def test_residual_networks_too(folder, tmp_path):
    assert train(folder, tmp_path / "run", "--steps=2", "--model=resnet10t", *[f"model.options={{}}"]) == 0  # noqa: F541
    assert timm.create_model(f"local-dir:{tmp_path}/run/model", pretrained=True, num_classes=3).fc.out_features == 3


def test_a_killed_run_goes_on_from_its_last_checkpoint(folder, tmp_path, straight):
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=20", "run.checkpoint_every=2"]
    killed_run("pretrain", arguments, tmp_path, step=13)
    assert load(tmp_path / "run" / "last.pt").step == 12
    assert run(*arguments) == 0
    assert same(weights(straight), weights(tmp_path / "run"))


def test_sigterm_saves_and_says_how_to_go_on(folder, tmp_path):
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=100000", "run.checkpoint_every=5"]
    command = [sys.executable, str(ROOT / "train" / "pretrain.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    wait_for(tmp_path / "run" / "last.pt", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    step = load(tmp_path / "run" / "last.pt").step
    assert process.returncode == 128 + signal.SIGTERM
    assert f"stopped at step {step} of 100000; the same command goes on" in err and "interrupted" in out
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_signal_to_one_process_stops_all(folder, tmp_path):
    """The other ones are told which, and wait for the checkpoint."""
    script = (
        "import os, signal, sys\n"
        "from fracgen.train import pretrain\nfrom fracgen.train.engine.train_step import TrainStep\n"
        "step = TrainStep.__call__\n"
        "def watched(self, number, *rest):\n"
        "    if number == 3 and self.ranks.rank == 1:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, number, *rest)\n"
        "TrainStep.__call__ = watched\n"
        "code = pretrain.run(sys.argv[1:])\n"
        "open('code' + os.environ['RANK'], 'w').write(str(code))\n"
    )
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=1000", "--loader=memory"]
    done = two_processes(script, arguments, tmp_path)
    codes = [(tmp_path / f"code{rank}").read_text() for rank in range(2)]
    assert codes == ["143", "0"] and "stopped at step 4 of 1000" in done.stderr, done.stderr
    assert load(tmp_path / "run" / "last.pt").step == 4


def wait_for(path, process, seconds=60):
    for _ in range(seconds * 20):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_two_processes_are_one(folder, tmp_path):
    """Equal weights on both ranks, every sample of an epoch on one of them, as many steps."""
    script = (
        "import sys, torch, torch.distributed as dist\n"
        "from fracgen.train import pretrain\n"
        "from fracgen.train.data.loader import TrainLoader\n"
        "from fracgen.train.engine import trainer\n"
        "seen = []\n"
        "batches = TrainLoader.batches\n"
        "def watched(self, start=0):\n"
        "    for batch in batches(self, start):\n"
        "        seen.append(batch.positions.tolist())\n"
        "        yield batch\n"
        "TrainLoader.batches = watched\n"
        "fit = trainer.fit\n"
        "def checked(state, *rest):\n"
        "    ending = fit(state, *rest)\n"
        "    mine = torch.cat([p.detach().flatten() for p in state.model.parameters()])\n"
        "    both = [torch.empty_like(mine) for _ in range(2)]\n"
        "    dist.all_gather(both, mine)\n"
        "    assert torch.equal(*both)\n"
        "    open(f'rank{dist.get_rank()}.txt', 'w').write(repr(sum(seen, [])))\n"
        "    return ending\n"
        "trainer.fit = checked\n"
        "sys.exit(pretrain.run(sys.argv[1:]))\n"
    )
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=6", "--loader=memory"]
    torchrun(script, arguments, tmp_path).check_returncode()
    ranks = [eval((tmp_path / f"rank{rank}.txt").read_text()) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 24
    assert sorted(ranks[0] + ranks[1]) == list(range(48)), "two epochs of 24 samples, each position once"
    assert load(tmp_path / "run" / "last.pt").world == 2


def test_the_same_command_again_has_nothing_to_do(folder, straight, capsys):
    before = (straight / "last.pt").read_bytes()
    assert train(folder, straight, "--steps=20", "run.log_every=5") == 0
    assert (straight / "last.pt").read_bytes() == before
    assert "finished" in capsys.readouterr().out


def test_another_run_is_refused_with_the_difference(folder, straight, capsys, tmp_path):
    assert train(folder, straight, "--steps=20", "--lr=0.5") == 2
    assert "optim.lr 0.5, was 0.001" in capsys.readouterr().err
    assert train(folder, straight, "--steps=20", "--resume=never") == 2
    assert "holds a run already" in capsys.readouterr().err
    write_shards(small_recipe(seed=4), tmp_path / "other", layout=plan(small_recipe(seed=4), num_shards=5))
    assert train(tmp_path / "other", straight, "--steps=20") == 2
    assert "samples " in capsys.readouterr().err


def test_changes_can_be_allowed(folder, tmp_path):
    assert train(folder, tmp_path / "run", "--steps=4", "--stop-after=2") == 0
    assert train(folder, tmp_path / "run", "--steps=6", "--lr=0.01", "--allow-changes") == 0
    assert load(tmp_path / "run" / "last.pt").step == 6


def test_allowed_changes_hold(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "run", "--steps=4", "--stop-after=2") == 0
    assert train(folder, tmp_path / "run", "--steps=4", "optim.weight_decay=0.9", "--allow-changes") == 0
    decays = {group["weight_decay"] for group in load(tmp_path / "run" / "last.pt").optimizer["param_groups"]}
    assert decays == {0.0, 0.9}
    assert train(folder, tmp_path / "run", "--steps=6", "optim.name=sgd", "--allow-changes") == 1
    assert "another model or optimiser" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_so(folder, tmp_path):
    arguments = ["--shards", folder, "--out", tmp_path / "run", *TINY, "--steps=100000", "run.checkpoint_every=5"]
    command = [sys.executable, str(ROOT / "train" / "pretrain.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
    wait_for(tmp_path / "run" / "last.pt", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in err and "Traceback" not in err


def test_an_interrupt_before_the_first_step_is_one_line(folder, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fracgen.train.data.opening.open_shards_folder", interrupted)
    assert train(folder, tmp_path / "run", "--steps=2") == 130
    assert capsys.readouterr().err.strip() == "pretrain: interrupted"


def test_images_of_sizes_of_their_own_go_through_timms_pipeline(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "set-000.tar")) as tar:
        for number in range(24):
            file = io.BytesIO()
            Image.new("RGB", (40 + number, 36 + 2 * number), (9 * number, 0, 99)).save(file, "PNG")
            tar.write({"__key__": f"s{number:02d}", "cls": str(number % 3).encode(), "png": file.getvalue()})
    foreign = [str(tmp_path / "set-000.tar"), tmp_path / "run", "--num-classes=3", "--steps=3"]
    assert train(*foreign, "--augment=timm", "--workers=1", "run.clean_every=2") == 0
    assert "clean_accuracy" in metrics.read(tmp_path / "run" / "metrics.jsonl")[0]


def test_what_a_full_disk_left_is_no_hindrance(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.tmp").write_text("sh")
    assert train(folder, tmp_path / "run", "--steps=1") == 0


def test_an_export_that_cannot_be_written_is_one_line(folder, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fracgen.train.engine.model.save_for_hf", full)
    assert train(folder, tmp_path / "run", "--steps=1") == 1
    assert "No space left" in capsys.readouterr().err and (tmp_path / "run" / "last.pt").exists()
    assert not (tmp_path / "run" / ".model.tmp").exists()


def test_a_run_keeps_its_loader_where_auto_chose_it(folder, tmp_path, monkeypatch):
    assert train(folder, tmp_path / "run", "--steps=4", "--stop-after=2") == 0
    monkeypatch.setattr(
        "fracgen.train.data.choose.free_memory", lambda device: 100_000
    )  # a quarter of it is less than the set
    assert train(folder, tmp_path / "run", "--steps=4") == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["loader"]["mode"] == "memory"


def test_a_loss_that_explodes_stops_the_run(folder, tmp_path, capsys):
    assert (
        train(folder, tmp_path / "run", "--steps=60", "--lr=1e30", "run.checkpoint_every=1", "schedule.warmup_steps=0")
        == 1
    )
    err = capsys.readouterr().err
    assert ("step " in err and "finite" in err) or "the loss is" in err
    if (tmp_path / "run" / "last.pt").exists():
        assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_damaged_checkpoint_is_refused(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "run", "--steps=2") == 0
    path = tmp_path / "run" / "last.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert train(folder, tmp_path / "run", "--steps=2") == 1
    assert "no whole checkpoint" in capsys.readouterr().err


def test_a_run_whose_last_checkpoint_is_damaged_ends_as_if_it_were_not(folder, tmp_path, capsys, straight):
    run = tmp_path / "run"
    arguments = ["--steps=20", "run.checkpoint_every=5"]
    assert train(folder, run, *arguments, "--stop-after=15") == 0
    path = run / "last.pt"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])
    capsys.readouterr()
    assert train(folder, run, *arguments) == 0
    err = capsys.readouterr().err
    assert "warning" in err and "no whole checkpoint" in err and "goes on from previous.pt, of step 10" in err
    assert same(weights(straight), weights(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=vit_tiny_patch8_224"], "did you mean"),
        (["--batch-size=7"], "make it even"),
        (["--num-classes=7"], "24 classes"),
        (["--steps=2", "--epochs=1"], "give one of them"),
        (["--lr=0"], "--lr 0.0: must be"),
        (["optim.name=adamq"], "adamq"),
        (["optim.name=adahessian"], "needs second derivatives"),
        (["optim.rl=3"], "did you mean 'lr'"),
        ([f"schedule.steps={10**400}"], "schedule.steps 1000"),
        (["augment.mean=[0.5, 0.5, .nan]"], "augment.mean nan: must be 0 to 1"),
        (["model.options.colour=3"], "colour"),
        (["augment.size=4"], "4 x 4"),
        (["augment.size=100000"], "augment.size 100000: must be 1 to 4096"),
        (["--batch-size=1073741824"], "--batch-size 1073741824: must be 1 to 1048576"),
        (["augment.rand_augment=trivial"], "trivial"),
        (["--precision=fp16"], "fp16"),
        (["--config=none.yaml"], "cannot be read"),
        (["--loader=disk"], "disk"),
        (["--data=stream"], "--loader memory or stream"),
        (["--feed=stream"], "--feed stream: is --loader memory or --loader stream now"),
        (["feed.mode=stream"], "feed.mode is loader.mode now"),
        (["feed.resize=32"], "feed.resize is loader.resize now"),
        (["--model=resnet18"], "model.options={}"),
        (["--seed=-1"], "seed"),
        (["--seed=99999999999999999999"], "seed"),
        (["run.seed=-1"], "run.seed -1"),
        (["model.drop_path=1.5"], "drop_path 1.5"),
        (["model.options.num_classes=5"], "leave it out"),
        (["model.options={}", "--model=vgg11", "model.drop_path=0.1"], "model.drop_path=0"),
        (["optim.clip=-1"], "optim.clip -1"),
        (["--epochs=0"], "epochs 0"),
        (["run.log_every=-1"], "run.log_every -1"),
        (["--tensorboard"], "is --log tensorboard now"),
        (["--log=mlflow"], "mlflow"),
        (["--no-such-option"], "no-such-option"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_and_exit_code_2(folder, tmp_path, capsys, arguments, message):
    assert train(folder, tmp_path / "run", *arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1] and "Traceback" not in "".join(err)
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_missing_words_and_folders(tmp_path, capsys):
    assert run("--out", tmp_path / "run") == 2
    assert "--shards" in capsys.readouterr().err
    for shards, message in [(tmp_path / "none", "none"), (tmp_path, str(tmp_path))]:
        assert train(shards, tmp_path / "run") == 2
        assert message in capsys.readouterr().err
    assert run("--shards", tmp_path) == 2
    assert "--out" in capsys.readouterr().err


def test_benchmark_measures_three_rates(folder, capsys, monkeypatch):
    monkeypatch.setattr("fracgen.train.engine.benchmark._SECONDS", 0.05)
    assert run("--shards", folder, *TINY, "--benchmark", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    rates = [measured[f"{name}_images_per_second"] for name in ("model_only", "loader_only", "data_only", "end_to_end")]
    assert min(rates) > 0 and 0 < measured["end_to_end_of_model_only"] < 2
    assert measured["end_to_end_cpu_ms_per_image"] > 0


def test_help_needs_no_torch():
    code = "import sys, fracgen.train.pretrain; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_run_begins_with_the_weights_of_another(folder, straight, tmp_path, capsys):
    """All but the head; the weights are part of what a run is, and their path is not."""
    words = ["--steps=4", "--stop-after=2"]
    assert train(folder, tmp_path / "run", "--checkpoint", straight, "--steps=1", "--lr=1e-30") == 0
    assert "all other weights loaded" in capsys.readouterr().err
    before, after = weights(straight), weights(tmp_path / "run")
    head = {name for name in before if name.startswith("head.")}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - head)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    training = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["fracgen"]
    assert training["base"] == "straight" and len(training["base_sha256"]) == 64 and training["licence"] == "mit"
    straight_copy = shutil.copytree(straight, tmp_path / "copy")
    assert train(folder, tmp_path / "paused", "--checkpoint", straight, *words) == 0
    assert train(folder, tmp_path / "paused", "--checkpoint", straight_copy, *words) == 0
    assert train(folder, tmp_path / "paused", *words) == 2
    assert "samples " in capsys.readouterr().err
    assert run("--shards", folder, "--out", tmp_path / "x", "--checkpoint", straight, "--model=resnet18") == 2
    assert "holds vit_tiny_patch16_224; leave --model out" in capsys.readouterr().err
