"""`python train/compare.py`, as a user runs it: tiny nets at 32 pixels, two steps a run."""

import contextlib
import importlib
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import fracgen.cli.app
from fracgen.shards.errors import DataError, UsageError
from fracgen.train import compare
from fracgen.train.cli import StopError
from fracgen.train.experiments import comparison, figure, fork_server, nested, tables
from fracgen.train.experiments.finished_runs import FinishedRuns
from fracgen.train.experiments.report import summarize_runs
from fracgen.train.experiments.run_comparison import lock_folder
from fracgen.train.experiments.subprocesses import SubprocessError, SubprocessRunner, Task

ROOT = Path(__file__).parents[1]
RECIPE = """
val_share: 0
eval_crop: 1.0
model: {drop_path: 0.0}
optim: {name: adamw, lr: 1.0e-2}
schedule: {steps: 2}
augment: {size: 32}
mix: {mixup: 0, cutmix: 0}
loader: {batch_size: 8, workers: 0}
run: {device: cpu, log_every: 1}
"""
TINY = {"patch_size": 16, "depth": 1, "embed_dim": 16, "num_heads": 2}
NET = ["--model=vit_tiny_patch16_224", f"model.options={json.dumps(TINY)}"]


def write_images(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for label, name in enumerate("abc"):
            (path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 90
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A timm folder, as a run leaves it."""
    from fracgen.train.engine import model as models
    from fracgen.train.engine.settings import Model

    path = tmp_path_factory.mktemp("start")
    network = models.create(Model(drop_path=0.0, options=TINY), num_classes=4, size=32)
    models.export(network, path / "model", size=32, mean=(0.5,) * 3, std=(0.5,) * 3, tag="x", options=TINY)
    return path


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


class Ended:
    """A program that has ended."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def terminate(self):
        raise AssertionError("it has ended")


def start_here(self, argv, log):
    """What SubprocessRunner.start_process does, in this process: a program that is started imports torch first."""
    with contextlib.redirect_stdout(io.StringIO()):
        if list(argv[1:3]) == ["-m", "fracgen"]:
            return Ended(fracgen.cli.app.run(list(argv[3:])))
        return Ended(importlib.import_module(f"fracgen.train.{Path(argv[1]).stem}").run(list(argv[2:])))


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)


def run(*words):
    return compare.run([str(word) for word in words])


def one_line(capfd):
    return capfd.readouterr().err.strip().splitlines()[-1]


# the table


def test_tables_of_accuracies():
    scores = {"a": {0: 0.5, 1: 0.6, 2: 0.7}, "b": {0: 0.6, 1: 0.55, 2: 0.9}, "c": {1: 0.9}, "d": {}}
    summaries = nested.summarize({name: {0: by_seed} for name, by_seed in scores.items()})
    report = {"split": "test", "sections": [{"per_class": 7, "measures": {"last": summaries}}]}
    ((title, rows),) = tables.report_tables(report).items()
    assert title == "accuracy on test, 7 training images a class"
    half = nested.student_t(2, 0.95) * statistics.stdev([10, -5, 20]) / 3**0.5
    assert rows[1] == ["a", "3", "60.00", "10.00", "", "", ""]
    assert rows[2] == ["b", "3", "68.33", "18.93", "+8.33", f"{25 / 3 - half:+.2f} to {25 / 3 + half:+.2f}", "2 of 3"]
    assert rows[3] == ["c", "1", "90.00", "-", "+30.00", "-", "1 of 1"], "the spread of one is none, not 0"
    assert rows[4] == ["d", "0", "-", "-", "", "", ""]
    assert len({line.rstrip() for line in tables.aligned(rows).splitlines()}) == 5
    assert tables.markdown(rows).splitlines()[1] == f"| --- |{' ---: |' * 6}"


# the runs


def test_a_comparison_is_done_once_and_extended(here, images, start, recipe, tmp_path, capfd):
    out = tmp_path / "out"
    words = ["--config", recipe, "--data", images, "--start", "scratch=none", "--start", f"ours={start}", "--out", out]
    assert run(*words, "--seeds=1") == 0
    shown = capfd.readouterr()
    assert "accuracy on test" in shown.out and "±" in shown.out and "run       2 of 2: ours, seed 0" in shown.err
    assert run(*words, "--seeds=2", "--json") == 0
    shown = capfd.readouterr()
    order = [line.split(": ")[1] for line in shown.err.splitlines() if line.startswith("run ")]
    assert order == ["scratch, seed 1", "ours, seed 1"], "what is done is not done again"
    report = json.loads(shown.out)
    assert report == json.loads((out / "compare.json").read_text()) and report["complete"]
    (section,) = report["sections"]
    assert list(section["measures"]) == ["last"], "no epoch was chosen"
    results = {
        name: [json.loads((out / name / f"seed-{n}" / "results.json").read_text()) for n in range(2)]
        for name in ("scratch", "ours")
    }
    for name, each in results.items():
        assert section["measures"]["last"][name]["accuracies"] == {
            "0": {str(n): each[n]["last"]["top1"] for n in range(2)}
        }
        assert [step for step, *_ in section["curves"]["variants"][name]] == [1, 2]
        assert [one["outcome"]["seed"] for one in each] == [0, 1] and {one["outcome"]["steps"] for one in each} == {2}
        assert all(one["config"]["model"]["options"].items() >= TINY.items() for one in each), "the start's net"
    assert "| ours | 2 |" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words, "--seeds=2") == 0 and "run " not in capfd.readouterr().err


def test_a_batch_larger_than_the_set(here, images, start, recipe, tmp_path, capfd):
    """At few images a class the set is repeated, which finetune says."""
    words = ["--config", recipe, "--data", images, "--start", f"a={start}", "--seeds=1", "--out", tmp_path / "out"]
    assert run(*words, "--per-class=2", "loader.batch_size=16") == 0
    shown = capfd.readouterr()
    assert "each image comes 3 times an epoch" in shown.err and "2 training images a class" in shown.out
    results = json.loads((tmp_path / "out" / "per-class-2" / "a" / "seed-0" / "results.json").read_text())
    assert results["outcome"]["steps"] == 2


def test_a_stream_without_a_letter_does_not_lose_the_table(here, images, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    words = ["--config", recipe, "--data", images, "--start=a=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words) == 0
    assert rb"\xb1" in sys.stdout.buffer.getvalue()


def test_what_changed_is_done_again(images, start, recipe, tmp_path):
    common = comparison.FinetuneCommand(config=str(recipe), overrides=(), data=str(images), model=None)

    def finished(**changes):
        command = comparison.FinetuneCommand(**{**vars(common), **changes})
        starts, out = {"a": str(start)}, tmp_path / "out"
        return FinishedRuns(comparison.Comparison(command=command, starts=starts, seeds=[0], per_class=[4], out=out))

    (planned,) = finished()._comparison.runs()
    assert planned.path == tmp_path / "out" / "per-class-4" / "a" / "seed-0"
    identity = finished()._identity(planned)
    planned.path.mkdir(parents=True)
    assert planned not in finished()
    (planned.path / "results.json").write_text(json.dumps({"fingerprint": identity["fingerprint"]}))
    assert planned not in finished()
    finished().add(planned)
    assert planned in finished()
    for other in ("augment.hflip=0", "loader.batch_size=4"):
        assert planned not in finished(overrides=(other,))
    assert planned in finished(overrides=("run.log_every=7",)), "changes no weight"
    moved = write_images(tmp_path / "moved")
    assert planned in finished(data=str(moved))
    (moved / "train" / "a" / "0.png").unlink()
    assert planned not in finished(data=str(moved))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"split": None}, "split None: must be text"),
        ({"protocol": 3}, "protocol 3: must be text"),
        ({"config": [1]}, r"config \[1\]: must be a mapping"),
        ({"last": {}}, "last.top1 is missing"),
        ({"last": {"top1": "high"}}, "last.top1 'high': must be a number"),
        ({"best": 0.5}, "best 0.5: must be a mapping"),
    ],
)
def test_damaged_results_are_one_line(change, fault, tmp_path):
    command = comparison.FinetuneCommand(config=None, overrides=(), data="images", model=None)
    planned = comparison.Comparison(command=command, starts={"a": "none"}, seeds=[0], per_class=[0], out=tmp_path)
    (run,) = planned.runs()
    run.path.mkdir(parents=True)
    values = {"protocol": "honest", "split": "test", "last": {"top1": 0.25}}
    (run.path / "results.json").write_text(json.dumps(values))
    (section,) = summarize_runs(planned, [run])["sections"]
    assert section["measures"]["last"]["a"]["mean"] == 0.25
    (run.path / "results.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(DataError, match=rf"seed-0/results\.json: damaged \({fault}.*\); remove {run.path}, and"):
        summarize_runs(planned, [run])


def test_a_failing_run_ends_it_and_the_rest_stays(here, images, recipe, tmp_path, capfd):
    (tmp_path / "out" / "b" / "seed-0").mkdir(parents=True)
    (tmp_path / "out" / "b" / "seed-0" / "notes.txt").write_text("mine")
    words = ["--config", recipe, "--data", images, "--start=a=none", "--start=b=none", "--out", tmp_path / "out"]
    assert run(*words, "--seeds=1", *NET) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[-2].startswith("finetune: ") and "notes.txt" in lines[-2]
    assert lines[-1] == "compare: b, seed 0: ended with exit code 2; what is finished is kept"
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    measures = report["sections"][0]["measures"]["last"]
    assert not report["complete"] and measures["a"]["n_runs"] == 1 and measures["b"]["n_runs"] == 0


def test_a_stop_leaves_what_was_finished_in_the_report(here, images, recipe, tmp_path):
    words = ["--config", recipe, "--data", images, "--out", tmp_path / "out", *NET]
    assert run(*words, "--start=a=none", "--seeds=2") == 0
    (tmp_path / "out" / "b" / "seed-0").mkdir(parents=True)
    (tmp_path / "out" / "b" / "seed-0" / "notes.txt").write_text("mine")
    assert run(*words, "--start=b=none", "--start=a=none", "--seeds=2") == 2
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    measures = report["sections"][0]["measures"]["last"]
    assert [measures[name]["n_runs"] for name in "ab"] == [2, 0], "seed 1 comes after the run that failed"


# what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--start: give NAME=WHERE"),
        (["--start=a"], "--start a: give NAME=WHERE"),
        (["--start=../a=none"], "is to name a folder"),
        (["--start=a=none", "--start=a=none"], "is given twice"),
        (["--start=a=none", "--start=b=mimetik"], "--start b=mimetik: no such file or folder, did you mean 'mimetic'?"),
        (["--start=a=none"], "--model: give the architecture"),
        (["--start=a=none", "--start=b=nowhere", *NET], "nowhere: no such file or folder"),
        (["--start=a=none", "run.seed=3"], "run.seed=3: differs from run to run; give --seed"),
        (
            ["--start=a=mimetic", *NET, "model.init=impulse"],
            "model.init=impulse: differs from run to run; give --start",
        ),
        (["--start=a=none", "--per-class=3", "--per-class=3"], "each once"),
        (["--start=a=none", "--per-class=9", *NET], "class 'a' of .* has 8"),
        (["--start=a=none", "--launcher=no-such-program -n 2"], "--launcher no-such-program: no such program"),
        (["--start=a=none", "optim.rl=3"], "did you mean 'lr'"),
        (["--start=a=none", "--steps=6"], "settings that have no option are given as NAME=VALUE"),
        (["--start=a=none", *NET, "steps=6"], "did you mean schedule.steps; there are"),
    ],
)
def test_it_is_refused_before_the_first_run(words, message, images, recipe, tmp_path, capfd):
    assert run("--config", recipe, "--data", images, "--out", tmp_path / "out", *words) == 2
    assert re.search(message, one_line(capfd)) and not (tmp_path / "out").exists()


def test_a_recipe_does_not_say_what_scratch_is(images, recipe, tmp_path, capfd):
    recipe.write_text(RECIPE.replace("{drop_path: 0.0}", "{drop_path: 0.0, init: mimetic}"))
    words = ["--config", recipe, "--data", images, "--start=scratch=none", "--out", tmp_path / "out", *NET]
    assert run(*words) == 2
    line = "compare: model.init=mimetic: differs from run to run; give --start mimetic=mimetic"
    assert one_line(capfd) == line and not (tmp_path / "out").exists()


def test_data_without_a_split_to_report_on(images, recipe, tmp_path, capfd):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "train").symlink_to(images / "train")
    words = ["--config", recipe, "--data", tmp_path / "some", "--start=a=none", "--out", tmp_path / "out", *NET]
    assert run(*words) == 2 and "no split to report on" in one_line(capfd)


def test_the_published_protocol_needs_a_test_split(images, recipe, tmp_path, capfd):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "train").symlink_to(images / "train")
    words = ["--config", recipe, "--data", tmp_path / "some", "--start=a=none", "--out", tmp_path / "out", *NET]
    assert run(*words, "protocol=published", f"val={images / 'test'}") == 2
    assert "has no test split, on which protocol=published chooses" in one_line(capfd)


def test_weights_in_a_file_have_the_architecture_of_a_folder(images, start, recipe, tmp_path):
    weights = tmp_path / "copy.pth"
    torch.save({"model": safetensors.torch.load_file(start / "model" / "model.safetensors")}, weights)
    command = comparison.FinetuneCommand(config=str(recipe), overrides=(), data=str(images), model=None)
    starts = {"copy": str(weights), "ours": str(start), "scratch": "none"}
    planned = comparison.plan_comparison(command, starts, seeds=[0], per_class=[0], out=tmp_path / "out")
    assert planned.model is not None and TINY.items() <= planned.model.options.items()
    named = [f"model.options={json.dumps(planned.model.options)}" in planned.argv(each) for each in planned.runs()]
    assert named == [True, False, True]


def test_runs_of_other_settings_are_refused(here, images, recipe, tmp_path, capfd):
    words = ["--config", recipe, "--data", images, "--start=a=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words) == 0
    before = (tmp_path / "out" / "compare.json").read_bytes()
    assert run(*words, "optim.lr=0.5") == 2
    assert "is of another run (optim.lr 0.5, was 0.01); give another --out" in capfd.readouterr().err
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


def test_the_picture_says_which_accuracy(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(figure, "write_figure", lambda path, drawn: shown.append(drawn))
    summaries = nested.summarize({"a": {0: {0: 0.5, 1: 0.7}}, "b": {0: {0: 0.6}}, "c": {}})
    curves = {"quantity": "loss", "variants": {"a": [[1, 2.0, None]], "b": []}}
    for measure in tables.MEASURES:
        section = {"per_class": None, "measures": {measure: summaries}, "curves": curves}
        figure.draw({"split": "test", "sections": [section]}, tmp_path / "x.png")
        assert len(shown[-1].axes) == 3
        assert shown[-1].axes[0].get_ylabel() == f"accuracy, {tables.MEASURES[measure]}, %"
    sections = [section, {**section, "per_class": 4}]
    pretraining = {"a": {"0": {"clean_accuracy": 0.9}}}
    figure.draw({"split": "test", "sections": sections, "pretraining": pretraining}, tmp_path / "x.png")
    by_images, by_score, *others = shown[-1].axes
    assert [label.get_text() for label in by_images.get_xticklabels()] == ["all", "4"] and len(others) == 6
    assert by_score.lines[0].get_xydata().tolist() == [[90.0, 60.0]], "a's only base"


def test_a_start_of_a_closed_form():
    command = comparison.FinetuneCommand(config=None, overrides=(), data="D", model="vit_tiny_patch16_224")
    starts = {"scratch": "none", "ours": "impulse", "folder": "./impulse"}
    planned = comparison.Comparison(command=command, starts=starts, seeds=[0], per_class=[0], out=Path("o"))
    words = [" ".join(planned.argv(each)) for each in planned.runs()]
    assert "--init" not in words[0] + words[2] and "--checkpoint ./impulse " in words[2]
    assert "--checkpoint none --seed 0 --init impulse" in words[1]


# several programs at a time


class Recorded(Task):
    """A program in Python; `order` takes its title when it starts, and with "." when it has ended well."""

    def __init__(self, title, order, log, code="", after=()):
        self.order, self.code, self.seconds = order, code, 0.0
        task = {"title": title, "label": "run", "number": "1 of 1", "log": log / f"{title}.log", "after": after}
        super().__init__(**task, command=self.start, end=self.take)

    def start(self):
        self.order.append(self.title)
        return None if self.code is None else [sys.executable, "-S", "-c", self.code]

    def take(self, seconds, ended_well):
        self.seconds += seconds
        self.order += [f"{self.title}."] if ended_well else []


def test_programs_run_after_those_that_they_need(tmp_path, capfd):
    order = []
    a = Recorded("a", order, tmp_path, "import os, sys; print(os.environ['OMP_NUM_THREADS'], file=sys.stderr)")
    b = Recorded("b", order, tmp_path, None)
    c = Recorded("c", order, tmp_path, "", after=[a, b])
    with SubprocessRunner(2) as runner:
        runner.run([c, a, b])
    assert order == ["a", "b", "a.", "c", "c."] and a.seconds > 0 == b.seconds
    assert (tmp_path / "a.log").read_text() == f"{runner.threads}\n", "not on the screen, where several write"
    assert [line.split(",")[0] for line in capfd.readouterr().err.splitlines()] == [
        "run       1 of 1: a",
        "run       1 of 1: c",
    ]


WAIT = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print('up', file=sys.stderr, flush=True)"
FAIL = "import sys, time; time.sleep({}); print('\\x1b[31mno', file=sys.stderr); sys.exit(3)"


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_failure_stops_the_others_or_what_needs_it(keep_going, tmp_path, capfd):
    order = []
    bad = Recorded("bad", order, tmp_path, FAIL.format(0.3))
    long = Recorded("long", order, tmp_path, f"{WAIT}; time.sleep({0.5 if keep_going else 60})")
    needs, other = Recorded("needs", order, tmp_path, after=[bad]), Recorded("other", order, tmp_path)
    with SubprocessRunner(2, keep_going=keep_going) as runner, pytest.raises(SubprocessError) as caught:
        runner.run([bad, long, needs, other])
    assert caught.value.exit_code == 3 and str(caught.value).startswith("bad: ended with exit code 3; what is")
    assert sorted(order) == (["bad", "long", "long.", "other", "other."] if keep_going else ["bad", "long"])
    assert "bad failed:\n  \\x1b[31mno\n" in capfd.readouterr().err


def interrupt_when(ready, number):
    """Send a signal to this process, from another thread, when `ready()` says so, at the latest after 90 seconds."""

    def interrupt():
        end = time.monotonic() + 90
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_reaches_every_program(jobs, tmp_path):
    order, names = [], "ab"[:jobs]
    up = [tmp_path / f"{name}.up" for name in names]
    code = f"{WAIT}; open({str(tmp_path)!r} + '/%s.up', 'w').close(); time.sleep(60)"
    tasks = [Recorded(name, order, tmp_path, code % name) for name in names]
    with (
        SubprocessRunner(jobs) as runner,
        pytest.raises(StopError, match="stopped at a; the same command goes on") as caught,
    ):
        thread = interrupt_when(lambda: all(path.exists() for path in up), signal.SIGTERM)
        runner.run([*tasks, Recorded("c", order, tmp_path)])
    thread.join()
    assert caught.value.exit_code == 143 and order == [*names]
    assert all(task.seconds > 0 for task in tasks)


def test_two_at_a_time_stop_with_checkpoints_and_are_as_good_as_one(images, recipe, tmp_path, monkeypatch, capfd):
    """Forks that train: the only test of them with torch, whose import they share."""
    out = tmp_path / "out"
    words = ["--config", recipe, "--data", images, "--start=a=none", "--start=b=none", "--seeds=1", *NET]
    metrics = [out / name / "seed-0" / "metrics.jsonl" for name in "ab"]

    def both_train():
        return all(each.exists() and each.read_text().count("\n") > 3 for each in metrics)

    thread = interrupt_when(both_train, signal.SIGINT)
    assert run(*words, "--out", out, "--jobs=2", "schedule.steps=2000") == 130
    thread.join()
    assert one_line(capfd) == "compare: stopped at a, seed 0; the same command goes on"
    for each in metrics:
        assert (each.parent / "last.pt").exists() and not (each.parent / "results.json").exists()
        log = each.parents[1] / "seed-0.log"
        assert log.read_text().strip().splitlines()[-1].startswith("finetune: stopped at step")
    assert run(*words, "--out", tmp_path / "two", "--jobs=2", "--json") == 0
    two = json.loads(capfd.readouterr().out)
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)
    assert run(*words, "--out", tmp_path / "one", "--json") == 0
    assert two == json.loads(capfd.readouterr().out)


FORKED = """
import signal, sys, time
from pathlib import Path
from fracgen.train.experiments import fork_server

def run(argv):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    print("up", file=sys.stderr, flush=True)
    time.sleep(60)

sys.modules["fracgen.train.sleeping"] = sys.modules[__name__]  # in the fork too
if __name__ == "__main__":
    fork_server.PRELOADED = ()
    fork_server.ForkedProgram("sleeping", [], Path(sys.argv[1]), {}).wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_forks_stop_with_what_started_them(number, tmp_path):
    """Or the same command would find them at work. SIGTERM comes to the whole process group, as batch systems do it."""
    (tmp_path / "main.py").write_text(FORKED)
    log = tmp_path / "log"
    command = [sys.executable, str(tmp_path / "main.py"), str(log)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0, env={**os.environ, "PYTHONPATH": ROOT})

    def wait_for(text):
        end = time.monotonic() + 60
        while not (log.exists() and log.read_text() == text):
            assert time.monotonic() < end
            time.sleep(0.01)

    wait_for("up\n")
    os.killpg(process.pid, signal.SIGTERM) if number == signal.SIGTERM else process.kill()
    assert process.wait() == -number
    wait_for("up\nstopped\n")


def test_two_at_work_in_one_folder(here, images, recipe, tmp_path, capfd):
    words = ["--config", recipe, "--data", images, "--start=a=none", "--seeds=1", "--out", tmp_path, *NET]
    with lock_folder(tmp_path):
        assert run(*words) == 2 and "another comparison or study is at work there" in one_line(capfd)
    assert run(*words) == 0


@pytest.mark.parametrize("below", ["", "deeper"])
def test_out_is_a_file(here, images, recipe, tmp_path, capfd, below):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / below
    assert run("--config", recipe, "--data", images, "--start=a=none", "--seeds=1", "--out", out, *NET) == 2
    assert f"{out}: a file is in the way of this folder; give another --out" in one_line(capfd)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_start_is_parsed_at_the_first_equals_sign():
    assert comparison.parse_starts(["a=x=y", "1p-frac=none"]) == {"a": "x=y", "1p-frac": "none"}
    with pytest.raises(UsageError):
        comparison.parse_starts(["compare.json=none"])


def test_a_killed_fork_server_is_no_interrupt(tmp_path, monkeypatch):
    def killed(*_):
        raise EOFError

    monkeypatch.setattr(fork_server, "start_server", lambda environment: None)
    monkeypatch.setattr("multiprocessing.forkserver.connect_to_new_process", killed)
    with pytest.raises(DataError, match="was killed; the same command goes on"):
        fork_server.ForkedProgram("finetune", [], tmp_path / "log", {})
