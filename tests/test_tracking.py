"""`--log`: runs in TensorBoard, Weights & Biases (offline) and trackio (a folder), read back as they wrote it.

Nothing leaves the machine: W&B is offline, or told of an address on loopback where nobody listens.
"""

import json
import os
import sqlite3
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_until_killed, two_processes
from PIL import Image

from fracgen.shards.settings import to_plain
from fracgen.train import finetune, pretrain
from fracgen.train.config import load
from fracgen.train.engine import checkpoint, metrics, services, tracking
from fracgen.train.engine.settings import Run
from fracgen.train.experiments.comparison import Comparison, FinetuneCommand, log_overrides
from fracgen.train.experiments.plan import StudyOptions, plan_study
from fracgen.train.experiments.study_file import load_study
from fracgen.train.finetune import Finetuning

pytestmark = pytest.mark.curves  # the confusion matrix is sent
ROOT = Path(__file__).parents[1]
TINY = [
    "--model=vit_tiny_patch16_224", "--checkpoint=none", "--batch-size=8", "--device=cpu", "--precision=fp32",
    "--workers=0", "augment.size=32", "model.options.patch_size=8", "model.options.depth=2",
    "model.options.embed_dim=32", "model.options.num_heads=2", "--steps=20", "run.log_every=2", "check_epochs=1",
    "run.checkpoint_every=8",
]  # fmt: skip
KILLED_AT = 15
"""A step after the last checkpoint, of step 8: those between the two are taken again."""


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes: 12 images of each to train with, 4 to report on; not to be changed."""
    path, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 3, 12):
        if split == 0 or number < 4:
            place = path / ("train", "test")[split] / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.normal((40, 128, 215)[label], 60, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return path


def tune(data, out, *arguments) -> int:
    return finetune.run(["--data", str(data), "--out", str(out), *TINY, *map(str, arguments)])


@pytest.fixture(scope="module")
def unlogged(data, tmp_path_factory):
    """The run that is logged nowhere; not to be changed."""
    out = tmp_path_factory.mktemp("run") / "unlogged"
    assert tune(data, out) == 0
    return out


def kill(data, out, *arguments):
    """The same run, killed by SIGKILL where it comes to step KILLED_AT."""
    script = (
        "import os, signal, sys, time\n"
        "from fracgen.train import finetune\n"
        "from fracgen.train.engine import metrics\n"
        "advance = metrics.MetricLogger.advance\n"
        "def killed(self, step):\n"
        "    advance(self, step)\n"
        f"    if step == {KILLED_AT}:\n"
        "        time.sleep(1.5)\n"  # W&B and trackio write every half second
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "metrics.MetricLogger.advance = killed\n"
        "finetune.run(sys.argv[1:])\n"
    )
    run_until_killed(script, ["--data", data, "--out", out, *TINY, *arguments], out.with_name("killed.txt"))
    assert checkpoint.load(out / "last.pt").step == 8


def same_run(one, other):
    first, second = checkpoint.load(one / "last.pt"), checkpoint.load(other / "last.pt")
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
    assert scalars_of_file(one) == scalars_of_file(other)
    assert (one / "confusion.csv").read_bytes() == (other / "confusion.csv").read_bytes()


def scalars_of_file(out):
    """(step, value) by name, of metrics.jsonl; without what depends on the machine's speed."""
    points = {}
    for line in metrics.read(out / "metrics.jsonl"):
        for name, value in line.items():
            if name not in ("step", "images_per_second"):
                points.setdefault(name, []).append((line["step"], value))
    return points


def check_log(scalars, pictures, out, *, with_samples=True):
    """All that metrics.jsonl holds, each point once; rates; the results; samples and confusion matrix.

    with_samples: False where no batch was drawn while the run was logged.
    """
    expected = scalars_of_file(out)
    for name, points in expected.items():
        assert [step for step, _ in scalars[name]] == [step for step, _ in points], name
        assert np.allclose([value for _, value in scalars[name]], [value for _, value in points])
    assert [step for step, _ in scalars["images_per_second"]] == list(range(2, 21, 2))
    outcome = json.loads((out / "results.json").read_text())["outcome"]
    for name in ("test_accuracy_last", "test_accuracy_best", "val_accuracy_best"):
        ((step, value),) = scalars[name]
        assert step == 20 and value == pytest.approx(outcome[name])
    (confusion,) = pictures["confusion_matrix"]
    assert len(pictures.get("augmented_images", ())) == with_samples
    for samples in pictures.get("augmented_images", ()):
        assert samples.shape == (64, 128, 3) and 20 < samples.mean() < 235 and samples.std() > 20  # 8 images of 32 px
    with Image.open(out / "confusion.png") as figure:
        assert np.array_equal(np.asarray(figure.convert("RGB")), confusion)


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def tensorboard_of(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    pictures = {}
    for name in tags["images"]:
        for number, image in enumerate(events.Images(name)):
            path = out.with_name(f"{name}-{number}.png")
            path.write_bytes(image.encoded_image_string)
            pictures.setdefault(name, []).append(tracking.read_picture(path))
    scalars = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in tags["scalars"]}
    return scalars, pictures, events


def test_tensorboard_has_each_point_once_after_a_kill(data, unlogged, tmp_path):
    out = tmp_path / "run"
    kill(data, out, "--log=tensorboard")
    before, _, _ = tensorboard_of(out)
    assert [step for step, _ in before["loss"]] == list(range(2, KILLED_AT, 2)), "what was logged before is there"
    assert tune(data, out, "--log=tensorboard") == 0
    same_run(unlogged, out)
    scalars, pictures, events = tensorboard_of(out)
    check_log(scalars, pictures, out)
    assert b"optim.weight_decay" in events.PluginTagToContent("hparams")["_hparams_/experiment"]
    assert b"embed_dim: 32" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_a_log_that_is_chosen_later_has_the_whole_run(data, tmp_path):
    out = tmp_path / "run"
    assert tune(data, out, "--stop-after=10") == 0
    assert not (out / "trackers.json").exists()
    assert tune(data, out, "run.tensorboard=true") == 0  # as files of settings of 0.3 say it
    scalars, pictures, _ = tensorboard_of(out)
    check_log(scalars, pictures, out)
    files = list((out / "tensorboard").iterdir())
    assert tune(data, out, "--log=tensorboard") == 0, "a finished run has nothing more to send"
    assert list((out / "tensorboard").iterdir()) == files


def test_pretraining_is_logged_too(folder, tmp_path):
    words = ["--shards", str(folder), "--out", str(tmp_path / "run"), *TINY, "run.clean_images=8", "--log=tensorboard"]
    words = [word for word in words if not word.startswith(("--checkpoint", "check_epochs"))]
    assert pretrain.run(words) == 0
    scalars, pictures, _ = tensorboard_of(tmp_path / "run")
    assert [step for step, _ in scalars["loss"]] == list(range(2, 21, 2)) and len(scalars["clean_accuracy"]) == 1
    assert list(pictures) == ["augmented_images"]


def test_one_process_of_several_logs(data, tmp_path):
    script = "import sys\nfrom fracgen.train import finetune\nsys.exit(finetune.run(sys.argv[1:]))\n"
    words = ["--data", data, "--out", tmp_path / "run", *TINY, "--log=tensorboard"]
    ended = two_processes(script, words, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    scalars, pictures, _ = tensorboard_of(tmp_path / "run")
    (half,) = pictures["augmented_images"]  # of its own half of the batch
    check_log(scalars, {**pictures, "augmented_images": [np.tile(half, (2, 1, 1))]}, tmp_path / "run")


# ---- Weights & Biases ------------------------------------------------------------------------------------------------


def records(path):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_of(out):
    """Of all sessions of a run together, as `wandb sync` sends them."""
    scalars, pictures, runs = {}, {}, []
    for path in sorted(out.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                runs.append(record.run)
            elif record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                for name, value in items.items():
                    if name.endswith("/path"):
                        picture = tracking.read_picture(path.parent / "files" / value)
                        pictures.setdefault(name.removesuffix("/path"), []).append(picture)
                    elif "/" not in name and not name.startswith("_"):
                        scalars.setdefault(name, []).append((items["_step"], value))
    return scalars, pictures, runs


def test_wandb_offline_goes_on_as_the_same_run(data, unlogged, tmp_path):
    out = tmp_path / "cats" / "seed-3"
    words = ["--log=wandb", "run.log_project=herbarium", "run.log_group=trees"]
    kill(data, out, *words)
    assert tune(data, out, *words) == 0
    same_run(unlogged, out)
    scalars, pictures, runs = wandb_of(out)
    check_log(scalars, pictures, out)
    assert len(runs) == 2 and len({run.run_id for run in runs}) == 1
    assert {(run.project, run.run_group, run.display_name) for run in runs} == {("herbarium", "trees", "cats/seed-3")}
    config = {update.key or update.nested_key[0]: update.value_json for update in runs[0].config.update}
    assert json.loads(config["schedule"])["steps"] == 20 and len(json.loads(config["fingerprint"])) == 64


def test_seeds_are_a_group(data, tmp_path):
    assert tune(data, tmp_path / "both", "--log=wandb", "--seeds=2", "--steps=4") == 0
    runs = [wandb_of(tmp_path / "both" / f"seed-{seed}")[2][0] for seed in (0, 1)]
    assert [(run.run_group, run.display_name) for run in runs] == [("both", "both/seed-0"), ("both", "both/seed-1")]
    assert runs[0].run_id != runs[1].run_id


def test_nobody_logged_in_is_one_line(data, unlogged, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    _forget_wandb()
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    assert stops(capsys) == ["not logged in; `wandb login`, or WANDB_MODE=offline"]
    same_run(unlogged, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]["step"] == 0
    assert not (tmp_path / "run" / "wandb").exists()


def test_no_network_is_one_line(data, unlogged, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(services, "_SECONDS", 1.0)
    _forget_wandb()
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    assert len(stops(capsys)) == 1
    same_run(unlogged, tmp_path / "run")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_BASE_URL")
    _forget_wandb()


def _forget_wandb():
    """Have wandb read its settings from the environment anew, as a new process would."""
    import wandb

    wandb.teardown()


def stops(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning   --log ")]
    assert all(line.endswith("; training goes on, and the next start sends the rest") for line in lines), lines
    return [line.split(" stopped: ", 1)[1].rsplit("; training", 1)[0] for line in lines]


@pytest.mark.parametrize("service", ["tensorboard", "wandb"])
def test_no_secret_is_logged(tmp_path, monkeypatch, service):
    secret = "hunter2"
    monkeypatch.setattr(sys, "argv", ["finetune", "--data", f"s3://key:{secret}@bucket/set"])
    settings = Finetuning(
        data=f"s3://key:{secret}@bucket/set",
        checkpoint=f"https://example.org/a.pth?token={secret}",
        run=Run(log=service),
    )
    tracker = tracking.open_tracker(settings.run, tmp_path, to_plain(settings))
    tracker.add(1, {"loss": 1.0})
    tracker.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    contents = b"".join(path.read_bytes() for path in files)
    assert b"s3://***@bucket/set" in contents and secret.encode() not in contents
    assert not any("metadata" in path.name or path.suffix == ".py" for path in files)


# ---- trackio ---------------------------------------------------------------------------------------------------------


def test_trackio_in_a_folder_goes_on_as_the_same_run(data, unlogged, tmp_path, capsys):
    pytest.importorskip("trackio")
    words = ["--log=trackio", "run.log_group=trees"]
    out = tmp_path / "run"
    home = Path(sys.modules["trackio"].utils.TRACKIO_DIR)  # read once a process
    os.environ["TRACKIO_DIR"] = str(home)
    kill(data, out, *words)
    capsys.readouterr()
    assert tune(data, out, *words, "--json") == 0
    json.loads(capsys.readouterr().out)
    same_run(unlogged, out)
    name = f"run-{json.loads((out / 'trackers.json').read_text())['trackio']['id'][:6]}"
    database = sqlite3.connect(home / "fracgen.db")
    rows = database.execute(
        "SELECT run_id, step, metrics FROM metrics WHERE run_name = ? ORDER BY step", [name]
    ).fetchall()
    assert len({run_id for run_id, _, _ in rows}) == 1
    scalars, pictures = {}, {}
    for _, step, values in rows:
        for key, value in json.loads(values).items():
            if isinstance(value, dict):
                pictures.setdefault(key, []).append(tracking.read_picture(home / "media" / value["file_path"]))
            else:
                scalars.setdefault(key, []).append((step, value))
    check_log(scalars, pictures, out)
    (config,) = database.execute("SELECT config FROM configs WHERE run_name = ?", [name]).fetchone()
    assert json.loads(config)["optim.name"] == "sgd" and json.loads(config)["_Group"] == "trees"


# ---- what fails ------------------------------------------------------------------------------------------------------


class Broken:
    """A service that fails where it is told to, and keeps what it was sent."""

    def __init__(self, at, error):
        self.at, self.error, self.sent = at, error, []

    def __call__(self, run):
        if self.at == "open":
            raise self.error
        return self

    def send(self, step, values, pictures):
        if self.at == step:
            raise self.error
        self.sent.append(step)

    def close(self):
        if self.at == "close":
            raise self.error


@pytest.mark.parametrize("at", ["open", 6, 20, "close"])
@pytest.mark.parametrize("error", [RuntimeError("a\nb\x1b[1m"), OSError(28, "No space left on device"), ValueError()])
def test_a_service_that_fails_is_one_line_and_changes_nothing(data, unlogged, tmp_path, monkeypatch, capsys, at, error):
    monkeypatch.setattr(services, "SERVICES", {"wandb": Broken(at, error)})
    monkeypatch.setattr(tracking, "SERVICES", services.SERVICES)
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    words = {RuntimeError: "a b\\x1b[1m", OSError: "[Errno 28] No space left on device", ValueError: "ValueError"}
    assert stops(capsys) == [words[type(error)]]
    same_run(unlogged, tmp_path / "run")


def test_what_a_failure_kept_back_is_sent_by_the_next_start(data, tmp_path, monkeypatch, capsys):
    first, second = Broken(6, RuntimeError("gone")), Broken(None, None)
    monkeypatch.setattr(tracking, "SERVICES", {"wandb": first})
    assert tune(data, tmp_path / "run", "--log=wandb", "--stop-after=10") == 0
    assert first.sent == [1, 2, 4] and stops(capsys) == ["gone"]  # of 1 the samples; accuracy after each epoch
    monkeypatch.setattr(tracking, "SERVICES", {"wandb": second})
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    assert second.sent == sorted(
        {*range(6, 21, 2), *(step for step, _ in scalars_of_file(tmp_path / "run")["val_accuracy"])} - {3, 4}
    )


def test_a_finished_run_sends_what_is_not_there_yet(data, tmp_path, monkeypatch, capsys):
    """A service that failed near the end, and one that was chosen when the run had ended."""
    first, second = Broken(12, RuntimeError("gone")), Broken(None, None)
    monkeypatch.setattr(tracking, "SERVICES", {"wandb": first})
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    written = metrics.read(tmp_path / "run" / "metrics.jsonl")
    monkeypatch.setattr(tracking, "SERVICES", {**services.SERVICES, "wandb": second})
    assert tune(data, tmp_path / "run", "--log=wandb") == 0
    assert first.sent and second.sent == [step for step in second.sent if step > max(first.sent)]
    assert {*range(2, 21, 2)} <= {*first.sent, *second.sent}
    assert tune(data, tmp_path / "run", "--log=tensorboard") == 0
    assert metrics.read(tmp_path / "run" / "metrics.jsonl") == written
    scalars, pictures, _ = tensorboard_of(tmp_path / "run")
    check_log(scalars, pictures, tmp_path / "run", with_samples=False)


def test_a_full_disk_is_one_line(data, unlogged, tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "write_atomically", full)
    assert tune(data, tmp_path / "run", "--log=tensorboard") == 0
    assert stops(capsys) == ["[Errno 28] No space left on device"]
    same_run(unlogged, tmp_path / "run")


@pytest.mark.parametrize("service", ["tensorboard", "wandb", "trackio"])
def test_a_library_that_is_missing_is_one_line(data, tmp_path, monkeypatch, capsys, service):
    find_spec = tracking.importlib.util.find_spec
    monkeypatch.setattr(
        tracking.importlib.util, "find_spec", lambda name, *rest: None if name == service else find_spec(name, *rest)
    )
    assert tune(data, tmp_path / "run", f"--log={service}", "--steps=2") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "--log" in line]
    assert line == (
        f"warning   --log {service}: not installed (pip install 'fracgen[{service}]'); training goes on without it"
    )
    assert not (tmp_path / "run" / "trackers.json").exists()


def test_a_folder_of_the_librarys_name_is_not_the_library(tmp_path, monkeypatch, capsys):
    """Python takes `wandb/`, which W&B leaves where it works, for a package without modules."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert tracking.open_tracker(Run(log="wandb"), tmp_path, {}) is None
    assert "--log wandb: not installed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"wandb": 3}', '{"wandb": {"id": "../x", "step": 3}}'])
def test_a_damaged_record_begins_another_log(tmp_path, text, monkeypatch):
    (tmp_path / "trackers.json").write_text(text)
    service = Broken(None, None)
    monkeypatch.setattr(tracking, "SERVICES", {"wandb": service})
    tracker = tracking.open_tracker(Run(log="wandb"), tmp_path, {})
    tracker.follow([{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}])
    tracker.close()
    assert service.sent == [2, 4] and json.loads((tmp_path / "trackers.json").read_text())["wandb"]["step"] == 4


# ---- names, groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/a", "a"),
        ("runs/a/seed-1", "a/seed-1"),
        ("c/per-class-5/a/seed-1", "per-class-5/a/seed-1"),
        ("s/p/a/base-2", "a/base-2"),
    ],
)
def test_run_names(folder, name):
    assert tracking.run_name(Path(folder)) == name


def test_comparisons_and_studies_are_groups(tmp_path):
    assert log_overrides("none", "x") == ()
    command = FinetuneCommand(config=None, overrides=log_overrides("wandb", "2024"), data="D", model="m")
    comparison = Comparison(command=command, starts={"scratch": "none"}, seeds=[0], per_class=[0], out=tmp_path)
    run = comparison.runs()[0]
    assert (comparison.settings(run).run.log, comparison.settings(run).run.log_group) == ("wandb", "2024")
    assert "run.log=wandb" in comparison.argv(run)
    _, size, variants = load_study(ROOT / "examples" / "ablations" / "delta.yaml", "laptop")
    plans = [
        plan_study(size, variants, StudyOptions(data="D", out=tmp_path / "delta", log=log)) for log in ("none", "wandb")
    ]
    for without, logged in zip(*(plan.steps for plan in plans), strict=True):
        assert without.key == logged.key, "a log is no reason to train again"
        is_training = logged.name.startswith("pre-train")
        assert ('run.log_group="delta"' in logged.argv) == ("run.log=wandb" in logged.argv) == is_training
    assert 'run.log_group="delta"' in plans[1].comparison.argv


def test_old_settings_and_the_default():
    assert Run().log == "none"
    assert (Run(tensorboard=True).log, Run(tensorboard=True).tensorboard) == ("tensorboard", False)
    assert Run(tensorboard=True, log="wandb").log == "wandb"
    assert load(Finetuning, None, {}, ["run.tensorboard=true"]).run.log == "tensorboard"
