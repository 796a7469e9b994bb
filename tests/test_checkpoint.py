"""Checkpoints, the loop's stops, and what a run keeps when something goes wrong."""

import contextlib
import json
import os
import signal
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.engine import metrics, results
from fracgen.train.engine.checkpoint import Checkpoint, check_same, load, save
from fracgen.train.engine.fit import Callbacks, Intervals, fit
from fracgen.train.engine.run_folder import RunFolder
from fracgen.train.engine.train_step import TrainState
from fracgen.train.pretrain import Pretraining
from fracgen.train.ranks import Ranks

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


def checkpoint(step=3, **changes):
    values = {"step": step, "config": {"a": 1}, "data": "f" * 64, "world": 1, "scaler": {}, "optimizer": {}}
    return Checkpoint(**{**values, "model": {"weight": torch.arange(4.0)}, **changes})


def test_a_checkpoint_is_read_back(tmp_path):
    save(checkpoint(), tmp_path / "last.pt")
    save(checkpoint(step=4), tmp_path / "last.pt")
    loaded = load(tmp_path / "last.pt")
    assert (loaded.step, loaded.config, loaded.world) == (4, {"a": 1}, 1)
    assert torch.equal(loaded.model["weight"], torch.arange(4.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert load(tmp_path / "previous.pt").step == 3
    save(checkpoint(step=5), tmp_path / "best.pt")
    save(checkpoint(step=6), tmp_path / "best.pt")
    assert load(tmp_path / "previous.pt").step == 3, "the last one's alone"


def test_half_a_checkpoint_is_never_loaded(tmp_path):
    path = tmp_path / "last.pt"
    save(checkpoint(), path)
    whole = path.read_bytes()
    with pytest.raises(DataError, match=r"no whole checkpoint \(no plain file\)"):
        load(tmp_path)
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"weights", os.urandom(2000)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"last\.pt: no whole checkpoint"):
            load(path)
    for place in range(len(whole) // 3, len(whole), len(whole) // 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            assert torch.equal(load(path).model["weight"], torch.arange(4.0)), "a bit in the padding, at most"
    torch.save({"state": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="no whole checkpoint"):
        load(path)
    torch.save({"version": 1}, path)
    with pytest.raises(UsageError, match=r"begun with fracgen 0\.2, whose samples came in another order"):
        load(path)
    torch.save({"version": 99}, path)
    with pytest.raises(DataError, match="version 99"):
        load(path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save(checkpoint(), path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fracgen.shards.files.os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        save(checkpoint(step=9), path)
    assert {each.name: load(each).step for each in tmp_path.iterdir()} == {"last.pt": 3, "previous.pt": 3}


def run_of_two_checkpoints(path):
    path.mkdir()
    (path / "config.yaml").write_text("")
    for step in (4, 8):
        save(checkpoint(step=step), path / "last.pt")
    return path


def test_a_run_goes_on_from_the_previous_checkpoint_where_the_last_is_damaged(tmp_path):
    run = run_of_two_checkpoints(tmp_path / "run")
    whole = (run / "last.pt").read_bytes()
    folder = RunFolder(run, "auto")
    assert folder.checkpoint().step == 8 and folder.warning == ""
    for content in (whole[:-100], b"", b"weights", whole[:900] + bytes(100) + whole[1000:]):
        (run / "last.pt").unlink()  # it may be linked
        (run / "last.pt").write_bytes(content)
        folder = RunFolder(run, "auto")
        assert folder.checkpoint().step == 4
        assert "last.pt: no whole checkpoint" in folder.warning
        assert folder.warning.endswith("goes on from previous.pt, of step 4") and "\n" not in folder.warning
    (run / ".last.pt.tmp").write_bytes(b"half of one")  # the run was killed while it wrote
    folder.lock()
    assert load(run / "last.pt").step == load(run / "previous.pt").step == 4, "a damaged one is never the previous one"
    folder.unlock()
    save(checkpoint(step=8), run / "last.pt")
    assert load(run / "last.pt").step == 8 and load(run / "previous.pt").step == 4
    assert not list(run.glob(".*.tmp")), "a link to the previous one, which was the last one too"


def test_two_damaged_checkpoints_and_those_of_other_versions_are_refused(tmp_path):
    run = run_of_two_checkpoints(tmp_path / "run")
    torch.save({"version": 99}, run / "last.pt")
    with pytest.raises(DataError, match="version 99"):
        RunFolder(run, "auto").checkpoint()
    (run / "last.pt").write_bytes(b"")
    (run / "previous.pt").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"last\.pt: no whole checkpoint .*, and previous\.pt is damaged too; give anoth"
    ):
        RunFolder(run, "auto").checkpoint()
    (run / "previous.pt").unlink()
    with pytest.raises(DataError, match=r"and there is no previous\.pt"):
        RunFolder(run, "auto").checkpoint()


def test_a_file_system_without_hard_links_keeps_one_checkpoint(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    run = run_of_two_checkpoints(tmp_path / "run")
    assert load(run / "last.pt").step == 8 and sorted(os.listdir(run)) == ["config.yaml", "last.pt"]  # noqa: PTH208


def test_a_lock_that_is_a_link_is_refused_and_its_target_stays(tmp_path):
    target = tmp_path / "thesis.txt"
    target.write_text("three years")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(target)
    with pytest.raises(DataError, match=r"\.lock: is a link, not a lock; remove it"):
        RunFolder(tmp_path / "run", "auto").lock()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").hardlink_to(target)
    RunFolder(tmp_path / "run", "auto").lock()
    assert target.read_text() == "three years"


@pytest.mark.parametrize("damage", ["flip", "cut", "insert"])
def test_no_damage_to_a_checkpoint_passes(tmp_path, damage):
    """Its values, or DataError of one line: never other values, never another error."""
    path = tmp_path / "last.pt"
    save(checkpoint(losses=(1.0, 0.5)), path)
    content = path.read_bytes()

    @given(place=st.integers(0, len(content) - 1), bit=st.integers(0, 7), more=st.binary(min_size=1, max_size=9))
    @hypothesis.settings(deadline=None, max_examples=300, database=None)
    def check(place, bit, more):
        changed = {
            "flip": content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :],
            "cut": content[:place],
            "insert": content[:place] + more + content[place:],
        }[damage]
        path.write_bytes(changed)
        try:
            loaded = load(path)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert (loaded.step, loaded.config, loaded.losses) == (3, {"a": 1}, (1.0, 0.5))
            assert torch.equal(loaded.model["weight"], torch.arange(4.0))

    check()


@given(
    text=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda each: (
                st.lists(each, max_size=3)
                | st.dictionaries(st.sampled_from(["fingerprint", "config", "outcome", "x"]), each, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@hypothesis.settings(deadline=None, max_examples=300, database=None)
def test_results_that_are_no_results_count_for_none(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "results"
    folder.mkdir(exist_ok=True)
    (folder / results.RESULTS).write_bytes(text)
    assert results.read(folder, Pretraining, fingerprint="f" * 64, config={}) is None


def test_other_runs_are_refused_with_the_difference(tmp_path):
    same = {"config": [], "data": "f" * 64, "world": 1, "path": tmp_path}
    check_same(checkpoint(), **same)
    for change, words in [
        ({"config": ["optim.lr 2, was 1"]}, r"optim\.lr 2, was 1"),
        ({"data": "e" * 64}, "samples eeeeeeee, were ffffffff"),
        ({"world": 2}, "2 processes, were 1"),
    ]:
        with pytest.raises(UsageError, match=words):
            check_same(checkpoint(), **{**same, **change})


# ---- the loop --------------------------------------------------------------------------------------------------------


class Scribe:
    """A tiny model, and a record of what the loop does with it."""

    def __init__(self, start=0):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        self.state = TrainState(
            model=model, optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=False), step=start
        )
        self.steps, self.logs, self.saved, self.loss = [], {}, [], lambda step: 1.0 + step

    def take_step(self, step):
        self.steps.append(step)
        return torch.tensor(self.loss(step))

    def run(self, evaluate=None, **intervals):
        def log(step, values):
            self.logs.setdefault(step, {}).update(values)

        callbacks = Callbacks(log=log, save=lambda: self.saved.append(self.state.step), evaluate=evaluate)
        return fit(self.state, self.take_step, callbacks, Intervals(batch_size=10, **intervals), ALONE)


def test_a_run_that_goes_on_in_fp16_begins_with_a_new_scale():
    """With changes allowed; one of fp16 goes on with the scale that it had."""

    def state(scale):
        of = Scribe().state
        of.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 0)
        return of

    def resumed(before, after):
        after.restore(before.to_checkpoint(config={}, data="f" * 64, world=1))
        assert torch.equal(after.model.weight, before.model.weight)
        return after.scaler.get_scale()

    assert resumed(state(0), state(2.0**16)) == 2.0**16
    assert resumed(state(8.0), state(2.0**16)) == 8.0
    assert resumed(state(8.0), state(0)) == 1.0, "bf16 has none"


def test_logs_checkpoints_and_the_last_step():
    scribe = Scribe()
    assert (
        scribe.run(
            steps=11, log_every=4, checkpoint_every=5, evaluate_every=6, evaluate=lambda: {"clean_accuracy": 0.25}
        )
        == "finished"
    )
    assert scribe.steps == list(range(11)) and scribe.saved == [5, 10, 11]
    assert sorted(scribe.logs) == [4, 6, 8, 11]
    assert scribe.logs[4]["loss"] == 2.5 and scribe.logs[8]["loss"] == 6.5
    assert scribe.logs[11]["loss"] == 9.5, "of the last four steps, though the last log is three steps ago"
    assert scribe.logs[6] == {"clean_accuracy": 0.25} and scribe.logs[11]["clean_accuracy"] == 0.25
    assert scribe.logs[8]["samples"] == 80 and scribe.logs[8]["lr"] == 0.5


def test_the_rate_is_that_of_the_steps(monkeypatch):
    """A step takes 1 s, and an evaluation or a checkpoint, whether or not it falls on a log, 100 s."""
    clock, scribe = [0.0], Scribe()
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def wait(seconds, value):
        clock[0] += seconds
        return value

    scribe.loss = lambda step: wait(1, 1.0)
    scribe.saved = SimpleNamespace(append=lambda step: wait(100, None))
    scribe.run(steps=12, log_every=4, checkpoint_every=6, evaluate_every=7, evaluate=lambda: wait(100, {}))
    assert [scribe.logs[step]["images_per_second"] for step in (4, 8, 12)] == [10, 10, 10]


def test_a_run_pauses_and_goes_on():
    scribe = Scribe(start=3)
    assert scribe.run(steps=9, stop_after=5, log_every=0, checkpoint_every=0) == "stopped"
    assert scribe.steps == [3, 4] and scribe.saved == [5] and list(scribe.logs) == [5]
    assert scribe.run(steps=9) == "finished" and scribe.saved == [5, 9]
    assert Scribe(start=9).run(steps=9) == "finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(number):
    scribe = Scribe()
    before = signal.getsignal(number)

    def loss(step):
        if step == 2:
            os.kill(os.getpid(), number)
        return 1.0

    scribe.loss = loss
    assert scribe.run(steps=9) == "interrupted"
    assert scribe.saved == [3] and signal.getsignal(number) is before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(bad):
    scribe = Scribe()
    scribe.loss = lambda step: bad if step == 6 else 1.0
    with pytest.raises(DataError, match="step 7: the loss is"):
        scribe.run(steps=100, log_every=50, checkpoint_every=5)
    assert scribe.saved == [5]


def test_weights_that_are_not_finite_are_never_saved():
    scribe = Scribe()

    def loss(step):
        if step == 7:
            scribe.state.model.weight.data[0, 0] = float("inf")
        return 1.0

    scribe.loss = loss
    with pytest.raises(DataError, match="step 8: weights are not finite"):
        scribe.run(steps=8, log_every=5, checkpoint_every=5)
    assert scribe.saved == [5]


def test_averages_after_a_resume_are_over_as_many_steps():
    """The losses before a checkpoint are kept with it."""
    straight, paused = Scribe(), Scribe()
    straight.run(steps=12, log_every=4)
    paused.run(steps=12, stop_after=6, log_every=4)
    paused.run(steps=12, log_every=4)
    assert [paused.logs[step]["loss"] for step in (4, 8, 12)] == [straight.logs[step]["loss"] for step in (4, 8, 12)]
    kept = paused.state.to_checkpoint(config={}, data="", world=1)
    assert kept.losses == [9.0, 10.0, 11.0, 12.0]


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_one_run_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run", "auto")
    folder.lock()
    with pytest.raises(UsageError, match="another process trains there"):
        RunFolder(tmp_path / "run", "auto").lock()


@pytest.mark.parametrize("begun", [False, True])
def test_steps_that_another_process_took_meanwhile_are_not_lost(tmp_path, begun):
    """One looks where the run goes on, and then decodes its images; another begins and ends before it has done so."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").touch()
    if begun:
        save(checkpoint(step=3), path / "last.pt")
    slow, quick = RunFolder(path, "auto"), RunFolder(path, "auto")
    assert [each.checkpoint() is not None for each in (slow, quick)] == [begun, begun]
    quick.lock()
    save(checkpoint(step=5), path / "last.pt")
    quick.unlock()
    with pytest.raises(UsageError, match="another process trained there meanwhile; the same command goes on"):
        slow.lock()
    slow.unlock()
    again = RunFolder(path, "auto")
    assert again.checkpoint().step == 5
    again.lock()
    again.unlock()


def test_folders_that_are_none(tmp_path):
    (tmp_path / "photo.png").write_text("x")
    with pytest.raises(UsageError, match=r"photo\.png and no config\.yaml, so no run"):
        RunFolder(tmp_path, "auto")
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "photo.png", "auto")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    assert RunFolder(tmp_path / "run", "auto").checkpoint() is None
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder(tmp_path / "run", "never")


@pytest.mark.curves
def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    journal = metrics.MetricLogger(tmp_path, steps=10, start=0)
    for step in (2, 4, 6):
        journal.log(step, {"loss": 1.0 / step})
    journal.close()
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write("[" * 100_000 + '\n{"step": 2, "lr": "x"}\n{"step": true}\n')  # damaged
        file.write('{"step": 8, "lo')  # killed here
    metrics.MetricLogger(tmp_path, steps=10, start=4).log(6, {"loss": 3.0})
    assert metrics.read(tmp_path / metrics.METRICS) == [
        {"step": 2, "loss": 0.5},
        {"step": 4, "loss": 0.25},
        {"step": 6, "loss": 3.0},
    ]
    metrics.draw_curves(tmp_path / metrics.METRICS, tmp_path / metrics.CURVES)
    assert (tmp_path / metrics.CURVES).read_bytes().startswith(b"\x89PNG")
