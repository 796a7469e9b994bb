"""Fine-tuning that was stopped, killed, finished or changed, and in several processes: one result."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import killed_run, two_processes
from test_finetune import (
    PLAIN,
    STRAIGHT,
    TINY,
    lines,
    results_of,
    run,
    same_runs,
    same_weights,
    tune,
)
from test_finetune import data as data
from test_finetune import straight as straight

from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.data import loader
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.data.splits import open_splits
from fracgen.train.engine import checkpoint, results
from fracgen.train.experiments.finetuning import Finetuning
from fracgen.train.ranks import Ranks


@pytest.mark.parametrize(
    "options",
    [[], ["--augment=timm", "--workers=2"], ["--loader=stream", "--workers=1"], ["--precision=bf16"]],
    ids=str,
)
def test_a_paused_run_goes_on_bit_for_bit(data, tmp_path, options, straight):
    if options:
        straight = tmp_path / "straight"
        assert tune(data, straight, *STRAIGHT, *options) == 0
    for stop_after in (4, 5, 10, 20, 0):
        assert tune(data, tmp_path / "paused", *STRAIGHT, *options, f"--stop-after={stop_after}") == 0
        assert (tmp_path / "paused" / "results.json").exists() == (stop_after == 0)
    same_runs(straight, tmp_path / "paused")
    names = ("val_accuracy", "lr", "samples")
    every_fourth = [line for line in lines(tmp_path / "paused") if line["step"] % 4 == 0]
    for one, other in zip(lines(straight), every_fourth, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
        if one["step"] in (4, 16, 24):  # elsewhere the mean of the losses begins at the pause
            assert one["loss"] == other["loss"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(data, tmp_path, straight):
    arguments = ["--data", data, "--out", tmp_path / "run", *TINY, *STRAIGHT, "run.checkpoint_every=2"]
    killed_run("finetune", arguments, tmp_path, step=11)
    assert checkpoint.load(tmp_path / "run" / "last.pt").step == 10
    assert run(*arguments) == 0
    same_weights(straight, tmp_path / "run")
    same_weights(straight, tmp_path / "run", "best.pt")
    assert results_of(straight)["best"] == results_of(tmp_path / "run")["best"]


def test_going_on_with_another_number_of_threads_is_told(data, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=4") == 0
    try:
        torch.set_num_threads(threads + 1)
        assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=8") == 0
        assert f"goes on at step 4 with {threads + 1} CPU threads, not {threads}" in capsys.readouterr().err
        assert tune(data, tmp_path / "run", *STRAIGHT, "--stop-after=12") == 0
        assert "goes on at step 8\n" in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("at", [4, 12])
@pytest.mark.parametrize("which", ["last.pt", "best.pt"])
def test_killed_at_any_save_the_same_epoch_is_chosen(data, tmp_path, straight, monkeypatch, at, which):
    """As if killed while a checkpoint of step `at` is written: the file is as before."""
    save = checkpoint.save

    def killed(state, path):
        if state.step == at and path.name == which:
            raise KeyboardInterrupt
        save(state, path)

    every = [*STRAIGHT, "run.checkpoint_every=4"]
    monkeypatch.setattr(checkpoint, "save", killed)
    code = tune(data, tmp_path / "run", *every)
    monkeypatch.setattr(checkpoint, "save", save)
    assert code == 130 or which == "best.pt"
    assert tune(data, tmp_path / "run", *every) == 0
    same_weights(straight, tmp_path / "run")
    same_weights(straight, tmp_path / "run", "best.pt")
    assert results_of(straight)["best"] == results_of(tmp_path / "run")["best"]
    assert [line.get("val_accuracy") for line in lines(straight)] == [
        line.get("val_accuracy") for line in lines(tmp_path / "run")
    ]


def test_a_finished_run_has_nothing_to_do(data, straight, monkeypatch):
    before = {name: (straight / name).read_bytes() for name in ("results.json", "last.pt", "best.pt")}
    monkeypatch.setattr("fracgen.train.engine.train_step.TrainStep.__call__", None)
    monkeypatch.setattr("fracgen.train.engine.evaluate.evaluate", None)
    assert tune(data, straight, *STRAIGHT) == 0
    assert {name: (straight / name).read_bytes() for name in before} == before


def test_damaged_results_are_none(tmp_path):
    """They are made again from the weights that the run ended with."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    outcome = {"start": "scratch", "seed": 0, "ending": "finished", "test_accuracy_last": 0.5}

    def read(**changes):
        values = {name: value for name, value in {**outcome, **changes}.items() if value is not None}
        (tmp_path / "results.json").write_text(json.dumps({"fingerprint": "f", "config": {}, "outcome": values}))
        return results.read(tmp_path, Finetuning, fingerprint="f", config={})

    assert read().items() >= outcome.items()
    for damage in ({"start": None}, {"seed": None}, {"ending": None}, {"test_accuracy_last": "high"}):
        assert read(**damage) is None


def test_results_of_fewer_steps_are_not_told_for_more(data, tmp_path, monkeypatch):
    """As if killed while a run that was made longer is scored at its end."""
    out, longer = tmp_path / "run", [*STRAIGHT, "--steps=12", "run.checkpoint_every=0"]
    assert tune(data, out, *STRAIGHT, "--steps=4") == 0 and results_of(out)["steps"] == 4
    with monkeypatch.context() as patched:
        patched.setattr("fracgen.train.engine.model.export", interrupted)
        assert tune(data, out, *longer, "--allow-changes") == 130
    assert checkpoint.load(out / "last.pt").step == 12
    assert tune(data, out, *longer) == 0
    assert results_of(out)["steps"] == 12


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_finished_run_whose_state_is_gone_is_left_alone(data, straight, tmp_path, capsys):
    out = Path(shutil.copytree(straight, tmp_path / "run"))
    (out / "last.pt").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert tune(data, out, *STRAIGHT, "--lr=0.1") == 2
    assert "holds a model, and no last.pt to go on from; give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_told_without_its_best_weights_and_model_is_made_again(data, straight, tmp_path, capsys):
    out = Path(shutil.copytree(straight, tmp_path / "run"))
    (out / "best.pt").rename(tmp_path / "best.pt")
    assert tune(data, out, *STRAIGHT) == 0
    assert str(straight) not in capsys.readouterr().out, "the run was moved"
    shutil.rmtree(out / "model")
    assert tune(data, out, *STRAIGHT) == 1
    assert "best.pt: is gone" in capsys.readouterr().err
    (tmp_path / "best.pt").rename(out / "best.pt")
    assert tune(data, out, *STRAIGHT) == 0
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("at", "changes", "kept"),
    [(8, [], True), (8, ["--lr=0.3"], False), (12, ["--lr=0.3"], True), (12, ["eval_crop=0.9"], False)],
)
def test_weights_of_steps_that_other_settings_took_are_not_chosen(data, tmp_path, monkeypatch, at, changes, kept):
    """As if killed in or after the epoch that was the best, at step 8, and gone on with other settings."""
    save, out = checkpoint.save, tmp_path / "run"

    def killed(state, path):
        if state.step == at and path.name == "last.pt":
            raise KeyboardInterrupt
        save(state, path)

    every = [*STRAIGHT, "run.checkpoint_every=4", "run.log_every=100"]
    monkeypatch.setattr("fracgen.train.engine.evaluate.Scores.top1", property(lambda self: next(accuracies)))
    accuracies = iter([0.1, 0.9, 0.2])
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", killed)
        assert tune(data, out, *every) == 130
    assert checkpoint.load(out / "last.pt").step == at - 4 and checkpoint.load(out / "best.pt").step == 8
    accuracies = iter([0.5] * 20)
    assert tune(data, out, *every, *changes, "--allow-changes") == 0
    best = checkpoint.load(out / "best.pt").scores["accuracy"]
    assert best == (0.9 if kept else 0.5)


@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
@pytest.mark.parametrize("feed", [["--workers=0", "loader.mode=memory"], ["--workers=1", "loader.mode=stream"]])
def test_two_processes_are_one(data, tmp_path, capsys, feed):
    """Equal weights and buffers on both ranks, each image scored or skipped once; the scores those of one process."""
    data = Path(shutil.copytree(data, tmp_path / "data"))
    (data / "test" / "class00" / "999.png").write_bytes(b"no picture")
    script = (
        "import sys, torch, torch.distributed as dist\n"
        "from fracgen.train import finetune\n"
        "from fracgen.train.engine import evaluate as scoring\n"
        "score = scoring.evaluate\n"
        "def checked(model, batches, **rest):\n"
        "    batches = list(batches)\n"
        "    open(f'seen{dist.get_rank()}', 'a').write(f'{sum(len(labels) for _, labels in batches)}\\n')\n"
        "    found = score(model, batches, **rest)\n"
        "    mine = torch.cat([v.double().flatten() for v in model.state_dict().values()])\n"
        "    both = [torch.empty_like(mine) for _ in range(2)]\n"
        "    dist.all_gather(both, mine)\n"
        "    assert torch.equal(*both)\n"
        "    return found\n"
        "scoring.evaluate = checked\n"
        "sys.exit(finetune.run(sys.argv[1:]))\n"
    )
    arguments = ["--data", data, "--out", tmp_path / "run", *PLAIN, "--model=resnet10t", *STRAIGHT, "--skip-bad", *feed]
    done = two_processes(script, [*arguments, "--steps=8", "--lr=0.1"], tmp_path)
    assert done.returncode == 0, done.stderr
    # two checks on 15 held-out images, then 21 test images twice
    seen = [(tmp_path / f"seen{rank}").read_text().split() for rank in range(2)]
    assert seen == [["8", "8", "11", "11"], ["7", "7", "10", "10"]]
    values = results_of(tmp_path / "run")
    assert values["last"]["images"] == values["best"]["images"] == 21
    assert values["skipped"] == {"image": 1}, "which both ranks met, or the second alone"
    assert checkpoint.load(tmp_path / "run" / "last.pt").world == 2
    # the same weights, scored by one process
    assert run(*arguments, "--steps=8", "--lr=0.1") == 2
    assert "1 processes, were 2" in capsys.readouterr().err
    assert run(*arguments, "--steps=8", "--lr=0.1", "--allow-changes") == 0
    alone = results_of(tmp_path / "run")
    assert [alone[which] for which in ("last", "best")] == [values[which] for which in ("last", "best")]


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_more_processes_than_images(data, mode):
    test = open_splits(str(data), val_share=0.0).test
    alone = Ranks(rank=0, world=1, device=torch.device("cpu"))
    settings = LoaderSettings(mode=mode, workers=1, batch_size=8)
    source = loader.TrainLoader(test, settings, seed=0, ranks=alone).source
    transform = EvalTransform(size=32, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    both = {"transform": transform.on_device, "picture_transform": transform}
    each = [loader.eval_batches(source, ranks=replace(alone, rank=rank, world=30), **both) for rank in range(30)]
    assert [sum(len(labels) for _, labels in batches) for batches in each] == [1] * 21 + [0] * 9
