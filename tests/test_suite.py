"""`python train/suite.py`, as a user runs it: tasks of every kind of source, tiny nets at 16 pixels, two steps."""

import json
import pickle
import re
import runpy
import shutil
import statistics
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from test_compare import Ended, start_here

from fracgen.shards.errors import UsageError
from fracgen.train import suite
from fracgen.train.config import load
from fracgen.train.data import catalog
from fracgen.train.data.split_files import sample_ids
from fracgen.train.data.split_rules import apply_rule, check_rule, train_on_both
from fracgen.train.data.splits import open_sources
from fracgen.train.experiments.finetuning import Finetuning
from fracgen.train.experiments.subprocesses import SubprocessRunner
from fracgen.train.experiments.suite_file import SUITES, find_suite, load_suite

ROOT = Path(__file__).parents[1]
NET = ["--model=vit_tiny_patch16_224"]
NET += [f"model.options.{each}" for each in ("patch_size=8", "depth=1", "embed_dim=16", "num_heads=2")]
FINETUNE = {
    "optim": {"name": "adamw", "lr": 1.0e-2},
    "schedule": {"steps": 2},
    "augment": {"size": 16},
    "mix": {"mixup": 0, "cutmix": 0},
    "model": {"drop_path": 0.0},
    "loader": {"batch_size": 8, "workers": 0},
    "run": {"device": "cpu"},
}


def picture(label, number):
    pixels = np.random.default_rng(number).integers(0, 90, (16, 16, 3), dtype=np.uint8)
    pixels[..., label] += 90
    return Image.fromarray(pixels)


def write_images(folder, **counts):
    """folder/SPLIT/CLASS/N.png, or folder/CLASS/N.png for `flat`."""
    for split, count in counts.items():
        for label, name in enumerate("abc"):
            place = folder / name if split == "flat" else folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count + (label if split == "test" else 0)):
                picture(label, number).save(place / f"{number}.png")
    return folder


def write_saved(folder):
    def part(count):
        rows = {"image": [picture(n % 3, n) for n in range(count)], "label": [n % 3 for n in range(count)]}
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))}
        return datasets.Dataset.from_dict(rows, datasets.Features(features))

    datasets.DatasetDict(train=part(12), test=part(7)).save_to_disk(folder)


def write_cifar(root, monkeypatch):
    """CIFAR-10 as torchvision keeps it: two classes, four images a batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        data = np.random.default_rng(len(name)).integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).exists())


class FakeTensorFlow:
    """What timm gives of a set of TensorFlow Datasets, as far as it is used here."""

    def __init__(self, split):
        info = type("Info", (), {"splits": {"train": 0, "test": 0}})
        self.reader = type(
            "Reader", (), {"class_to_idx": {"x": 0, "y": 1, "z": 2}, "builder": type("B", (), {"info": info})}
        )
        self.count = {"train": 12, "test": 6}[split]

    def __iter__(self):
        return ((picture(n % 3, n), n % 3) for n in range(self.count))


def write_suite(path, **values):
    path.write_text(yaml.safe_dump({"about": "small", "finetune": FINETUNE, **values}, sort_keys=False))
    return path


def task(data="images", **values):
    return {"data": data, "classes": 3, **values}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Images of tasks; runs in this process."""
    write_images(tmp_path / "data" / "images", train=4, test=2)
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def run(*words):
    return suite.run([str(word) for word in words])


def last_line(capfd):
    return capfd.readouterr().err.strip().splitlines()[-1]


# the files


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_suites_by_name(path, tmp_path):
    loaded = load_suite(find_suite(path.stem))
    for name, each in loaded.tasks.items():
        assert each.get, f"{name}: says how its images are had"
        for protocol in ("honest", "published"):
            (tmp_path / "x.yaml").write_text(yaml.safe_dump(loaded.settings(each, protocol)))
            settings = load(Finetuning, str(tmp_path / "x.yaml"), {"data": "x"})
            assert sum(map(bool, (settings.schedule.steps, settings.schedule.epochs))) == 1
    assert all(column.source for column in loaded.published.values())


def test_seven_and_vtab_are_what_the_field_has():
    seven, vtab = (load_suite(find_suite(name)) for name in ("seven", "vtab-1k"))
    assert {group: len(names) for group, names in seven.groups().items()} == {"mean": 7}
    sizes = {name: tuple(task.images.values()) for name, task in seven.tasks.items()}
    assert sizes["cars"] == (8144, 8041) and sizes["flowers"] == (6552, 818) and sizes["voc12"] == (13609, 13841)
    assert seven.settings(seven.tasks["cars"], "published")["protocol"] == "published"
    groups = {group: len(names) for group, names in vtab.groups().items()}
    assert groups == {"natural": 7, "specialized": 4, "structured": 8, "all": 19}
    assert vtab.protocols.published.train_on == "train+val"
    assert vtab.settings(vtab.tasks["dtd"], "published")["val_share"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {}}, "tasks: give one or more"),
        ({"tasks": [3]}, "tasks: must be a mapping by name"),
        ({"taks": {}}, "unknown key 'taks', did you mean 'tasks'"),
        ({"tasks": {"a": {"classes": 3}}}, "tasks.a: data is missing"),
        ({"tasks": {"a": task(metrik="accuracy")}}, "tasks.a: unknown key 'metrik', did you mean 'metric'"),
        ({"tasks": {"a": task(metric="mAP")}}, "tasks.a: metric 'mAP': must be one of accuracy, mean-per-class"),
        ({"tasks": {"a/b": task()}}, "tasks.a/b: is to name a folder"),
        ({"tasks": {"a": task(group="all")}}, "tasks.a.group: 'all' is the mean of all groups"),
        ({"tasks": {"a": task(images={"dev": 3})}}, "tasks.a.images.dev: no split"),
        ({"tasks": {"a": task(split={"test": "test"})}}, "tasks.a.split: train: is missing"),
        ({"tasks": {"a": task(split={"train": "train[:3"})}}, "tasks.a.split: 'train\\[:3': must be slices"),
        ({"tasks": {"a": task(split={"train": -3})}}, "tasks.a.split: train -3: must be a number of images, or"),
        ({"tasks": {"a": task(finetune={"optim": {"rl": 1}})}}, "tasks.a: unknown key 'optim.rl', did you mean 'lr'"),
        ({"tasks": {"a": task(finetune={"per_class": 3})}}, "tasks.a: finetune.per_class: is not the suite's to say"),
        ({"protocols": {"mine": {}}}, "unknown key 'protocols.mine'"),
        ({"published": {"x": {"tasks": {"a": 3}}}}, "published.x: source is missing"),
        ({"published": {"x": {"source": "s", "tasks": {"b": 3}}}}, "published.x.tasks.b: no such task"),
        ({"published": {"x": {"source": "s", "tasks": {"a": 840}}}}, "published.x.tasks.a 840.0: must be an accuracy"),
        ({"published": {"x": {"source": "s", "means": {"main": 3}}}}, "published.x.means.main: no such mean, did you"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_suite(change, message, tmp_path):
    path = write_suite(tmp_path / "s.yaml", **{"tasks": {"a": task()}, **change})
    with pytest.raises(UsageError, match=message) as raised:
        load_suite(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_layers_of_settings_and_lengths(tmp_path):
    protocols = {"published": {"finetune": {"protocol": "published", "schedule": {"samples": 9}}}}
    tasks = {"a": task(finetune={"schedule": {"epochs": 3, "warmup_steps": 7}}), "b": task()}
    loaded = load_suite(write_suite(tmp_path / "s.yaml", tasks=tasks, protocols=protocols))
    assert loaded.settings(loaded.tasks["a"], "honest")["schedule"] == {"epochs": 3, "warmup_steps": 7}
    assert loaded.settings(loaded.tasks["a"], "published")["schedule"] == {"warmup_steps": 7, "samples": 9}
    assert loaded.settings(loaded.tasks["b"], "honest", {"eval_crop": 1.0}) == {"eval_crop": 1.0}


# rules of splits


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules")
    write_images(path, train=10, val=2, test=3)
    return open_sources(str(path))


def test_splits_as_they_lie(sources):
    ids = apply_rule({}, sources)
    assert {role: len(each) for role, each in ids.items()} == {"train": 30, "val": 6, "test": 12}
    both = train_on_both(ids)
    assert both["train"] == ids["train"] + ids["val"] and both.keys() == {"train", "test"}
    without = apply_rule({}, {split: each for split, each in sources.items() if split != "test"})
    assert without["test"] == ids["val"] and "val" not in without


def test_drawn_splits_have_every_class_and_no_image_twice(sources):
    ids = apply_rule({"pool": "train + val + test", "train": 24, "val": 6, "test": 12, "seed": 5}, sources)
    assert [len(ids[role]) for role in ("train", "val", "test")] == [24, 6, 12]
    drawn = [each for role in ids.values() for each in role]
    assert len(set(drawn)) == 42 and {each.split("/")[0] for each in drawn} == {"train", "val", "test"}
    for each in ids.values():
        assert {name.split("/")[1] for name in each} == {"a", "b", "c"}
    assert ids == apply_rule({"pool": "train + val + test", "train": 24, "val": 6, "test": 12, "seed": 5}, sources)
    assert ids != apply_rule({"pool": "train + val + test", "train": 24, "val": 6, "test": 12, "seed": 6}, sources)
    mixed = apply_rule({"train": 12, "val": 3, "test": "test"}, sources)
    assert {name.split("/")[0] for name in mixed["train"] + mixed["val"]} == {"train"} and len(mixed["test"]) == 12
    with pytest.raises(UsageError, match="31 images: train has 30 left to draw from"):
        apply_rule({"train": 31}, sources)


def test_a_drawn_split_is_a_promise(sources):
    """The same suite has the same images in every version."""
    ids = apply_rule({"pool": "train + val + test", "train": 3, "val": 3, "test": 3}, sources)
    assert ids == {
        "train": ["train/a/7.png", "val/b/1.png", "val/c/1.png"],
        "val": ["train/a/5.png", "train/b/5.png", "train/c/0.png"],
        "test": ["train/b/3.png", "train/c/3.png", "val/a/1.png"],
    }


def test_slices_are_those_of_tensorflow_datasets(monkeypatch):
    monkeypatch.setattr(catalog, "_create", lambda data, root, split: FakeTensorFlow(split))
    sources = open_sources("tfds/fake")
    names = sample_ids(sources)
    ids = apply_rule({"train": "train[:50%] + train[10:]", "val": "train[6:8]", "test": "test[-25%:]"}, sources)
    assert ids["train"] == names["train"][:6] + names["train"][10:] and ids["val"] == names["train"][6:8]
    assert ids["test"] == names["test"][-25 * 6 // 100 :], "rounded down"
    with pytest.raises(UsageError, match="there is no split val"):
        apply_rule({"train": "val"}, sources)


def test_slices_of_folders_would_lack_classes(sources):
    with pytest.raises(UsageError, match="in the order of their classes"):
        apply_rule({"train": "train[:10]"}, sources)
    assert len(apply_rule({"train": "train + val"}, sources)["train"]) == 36
    for rule in ({"train": True}, {"train": 3, "seed": -1}, {"train": 3, "pool": 4}, {"tran": 3}):
        with pytest.raises(UsageError):
            check_rule(rule)


# runs


@pytest.fixture
def every_source(root, monkeypatch):
    """A suite with a task of each kind of source, and one that is not there."""
    write_images(root / "flat", flat=9)
    write_saved(root / "saved")
    write_cifar(root, monkeypatch)
    create = catalog._create
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(
        catalog,
        "_create",
        lambda data, root, split: FakeTensorFlow(split) if data.startswith("tfds/") else create(data, root, split),
    )
    write_images(root / "hub", train=4, test=2)
    slices = {"train": "train[:9]", "val": "train[9:]", "test": "test"}
    tasks = {
        "folder": task(images={"train": 12, "test": 9}, group="files"),
        "flat": task("flat", split={"train": 12, "val": 6, "test": 9}, group="files", metric="mean-per-class"),
        "saved": task("saved", group="files", in_mean=False, about="beside the others"),
        "cifar": {"data": "torch/cifar10", "classes": 2, "group": "names"},
        "tensorflow": task("tfds/fake", split=slices, group="names"),
        "hub": task(f"hfds/{root / 'hub'}", group="names"),
        "absent": task("cars", group="files", get="as train/CLASS and test/CLASS"),
    }  # fmt: skip
    published = {
        "paper": {"source": "A. Paper, 2024", "tasks": {"folder": 84.2}, "means": {"names": 90.0, "files": 80.0}},
        "other": {"source": "second-hand", "means": {"all": 88.5}},
    }
    return write_suite(root.parent / "s.yaml", tasks=tasks, published=published)


def test_every_kind_of_source(every_source, root, tmp_path, capfd):
    words = [every_source, "--root", root, "--start=scratch=none", "--start=other=impulse", "--seeds=2", *NET]
    assert run(*words, "--out", tmp_path / "out", "--json") == 1
    shown = capfd.readouterr()
    report = json.loads(shown.out)
    assert shown.err.splitlines()[-1] == "suite: s: no images of 1 of 7 tasks: absent"
    assert report == json.loads((tmp_path / "out" / "suite.json").read_text()) and not report["complete"]
    tasks = report["tasks"]
    assert tasks["absent"]["absent"] == f"{root / 'cars'}: no such folder" and tasks["absent"]["measures"] == {}
    sizes = {name: tuple(each["images"].values()) for name, each in tasks.items()}
    assert sizes == {
        "folder": (12, 9), "flat": (12, 6, 9), "saved": (12, 7), "cifar": (20, 4), "tensorflow": (9, 3, 6),
        "hub": (12, 9), "absent": (),
    }  # fmt: skip
    for name, each in tasks.items():
        score = "mean_per_class" if name == "flat" else "top1"
        for start, summary in each["measures"].get("last", {}).items():
            for seed in range(2):
                results = json.loads((tmp_path / "out" / name / start / f"seed-{seed}" / "results.json").read_text())
                assert summary["accuracies"]["0"][str(seed)] == results["last"][score]
                assert results["last"]["images"] == each["images"]["test"]
    for group, names in (("files", ("folder", "flat")), ("names", ("cifar", "tensorflow", "hub"))):
        mean = report["means"][group]
        assert mean["tasks"]["last"] == list(names) and mean["of"] == 3
        by_seed = [
            statistics.fmean(tasks[name]["measures"]["last"]["other"]["accuracies"]["0"][str(seed)] for name in names)
            for seed in range(2)
        ]
        summary = mean["measures"]["last"]["other"]
        assert summary["mean"] == pytest.approx(statistics.fmean(by_seed), abs=1e-5)
        assert summary["std_within"] == pytest.approx(statistics.stdev(by_seed), abs=1e-5)
    assert len(report["means"]["all"]["tasks"]["last"]) == 5 and "saved" not in report["means"]["all"]["tasks"]["last"]
    text = (tmp_path / "out" / "suite.md").read_text()
    assert re.search(r"\| mean, files \(2 of 3\) \|.*\|  ?\|$", text, re.MULTILINE), "no published mean of other tasks"
    assert re.search(r"\| mean, names \(3\) \|.*\| 90.0 \|$", text, re.MULTILINE)
    assert re.search(r"^\| folder \| accuracy \| 12 / 9 \|.*\| 84.2 \|$", text, re.MULTILINE)
    for line in (
        f"- no images, absent: {root / 'cars'}: no such folder; as train/CLASS and test/CLASS",
        "- saved: beside the others",
        "- published, paper: A. Paper, 2024",
        "- published mean, other: 88.5; second-hand",
    ):
        assert line in text
    assert (tmp_path / "out" / "suite.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in json.dumps([each["settings"] for each in tasks.values()]), "no paths"
    assert run(*words, "--out", tmp_path / "out", "--task=folder", "--task=hub") == 0
    shown = capfd.readouterr()
    assert "run " not in shown.err and "folder" in shown.out


def test_task_by_task_gives_the_table_of_all(root, tmp_path, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(), "b": task(), "absent": task("cars")})
    words = [path, "--root", root, "--start=x=none", "--start=y=impulse", "--seeds=1", *NET]
    assert run(*words, "--out", tmp_path / "all") == 1
    assert run(*words, "--out", tmp_path / "out", "--task=b") == 0
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert list(report["tasks"]) == ["b"] and report["complete"]
    assert run(*words, "--out", tmp_path / "out", "--task=absent") == 1
    assert run(*words, "--out", tmp_path / "out", "--task=a") == 0
    whole, by_task = ((tmp_path / name / "suite.json").read_text() for name in ("all", "out"))
    assert by_task == whole and not json.loads(whole)["complete"], "in the suite's order, with means over both"
    ours = ["--start=x=none", "--start=y=impulse"]
    for other in (["--start=x=impulse", ours[1]], ours[:1], ours[::-1], [*ours, "--seeds=2"]):
        assert run(path, "--root", root, "--seeds=1", *other, *NET, "--out", tmp_path / "out", "--task=a") == 2
        assert "out: holds task b with other starts, or in another order, or other seeds; give" in last_line(capfd)
    (tmp_path / "out" / "b" / "compare.json").write_text("{")
    assert run(*words, "--out", tmp_path / "out", "--task=a") == 2
    assert "b/compare.json: missing or damaged; give --task b too" in last_line(capfd)
    assert (tmp_path / "out" / "suite.json").read_text() == whole
    assert run(*words, "--out", tmp_path / "out", "--task=a", "--task=b") == 0
    assert (tmp_path / "out" / "suite.json").read_text() == whole
    (tmp_path / "out" / "b" / "compare.json").write_text('{"starts": ["x", "y"]}')
    assert run(*words, "--out", tmp_path / "out", "--task=a") == 2
    assert "b/compare.json: missing or damaged; give --task b too" in last_line(capfd)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("", "{", "cannot be read"),
        ("tasks", [1], "tasks [1]: must be a mapping"),
        ("protocol", "honest", "protocol 'honest': must be a mapping"),
        ("seeds", None, "seeds None: must be a list"),
        ("tasks.b", [], "tasks.b: []: must be a mapping"),
        ("tasks.b", {}, "tasks.b: metric is missing"),
        ("tasks.b.images.test", "9", "tasks.b: images.test '9': must be a whole number"),
        ("tasks.b.measures.last", [1], "tasks.b: measures.last [1]: must be a mapping"),
        ("tasks.b.measures.last.y.mean", "high", "tasks.b: measures.last.y.mean 'high': must be a number"),
        ("tasks.b.measures.last.y.accuracies.0.0", None, "tasks.b: measures.last.y.accuracies.0.0 None: must be"),
        ("tasks.b.measures.last.y.difference.interval", [0], "y.difference.interval [0]: must be 2 values"),
    ],
)  # fmt: skip
def test_a_damaged_report_is_one_line(place, value, fault, root, tmp_path, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(), "b": task()})
    words = [path, "--root", root, "--start=x=none", "--start=y=impulse", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words, "--task=b") == 0
    written = tmp_path / "out" / "suite.json"
    report = inner = json.loads(written.read_text())
    *groups, name = place.split(".")
    for group in groups:
        inner = inner[group]
    inner[name] = value
    written.write_text(json.dumps(report) if place else value)
    assert run(*words, "--task=a") == 2
    line = last_line(capfd)
    assert line.startswith(f"suite: {written}: damaged (") and fault in line
    assert line.endswith("); remove it, and do all tasks again: runs are kept")


def test_kept_tasks_whose_start_has_other_weights_now_are_refused(root, tmp_path, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(), "b": task()})
    net = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, embed_dim=16, num_heads=2)
    start = tmp_path / "start.pth"
    torch.save(net.state_dict(), start)
    words = [path, "--root", root, f"--start=x={start}", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words, "--task=b") == 0
    net.cls_token.data += 1
    torch.save(net.state_dict(), start)
    assert run(*words, "--task=a") == 2
    line = f"{tmp_path / 'out'}: holds task b with other settings (other weights in {start}); give another --out"
    assert last_line(capfd) == f"suite: {line}"


def test_it_goes_on_after_a_stop_to_the_same_report(root, tmp_path, monkeypatch, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(), "b": task(split={"train": 9, "test": "test"})})
    words = [path, "--root", root, "--start=x=none", "--seeds=2", "--jobs=1", *NET]
    assert run(*words, "--out", tmp_path / "straight") == 0
    starts = []

    def third_fails(self, argv, log):
        starts.append(argv)
        return Ended(1) if len(starts) == 3 else start_here(self, argv, log)

    monkeypatch.setattr(SubprocessRunner, "start_process", third_fails)
    assert run(*words, "--out", tmp_path / "out") == 1
    assert "x, seed 0: ended with exit code 1" in last_line(capfd)
    partial = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert not partial["complete"] and partial["means"]["mean"]["tasks"]["last"] == ["a"]
    assert run(*words, "--out", tmp_path / "out") == 0
    assert len(starts) == 5, "what is finished is not done again"
    straight, resumed = (json.loads((tmp_path / name / "suite.json").read_text()) for name in ("straight", "out"))
    assert straight == resumed and resumed["complete"]


def test_a_stop_leaves_the_results_of_tasks_that_were_not_begun(root, tmp_path, monkeypatch, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={name: task() for name in "abc"})
    words = [path, "--root", root, "--start=x=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words, "--task=b", "--task=c") == 0
    before = json.loads((tmp_path / "out" / "suite.json").read_text())
    monkeypatch.setattr(SubprocessRunner, "start_process", lambda self, argv, log: Ended(3))
    assert run(*words) == 3
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert report["tasks"]["a"]["measures"] == {} and not report["complete"]
    assert {name: report["tasks"][name] for name in "bc"} == before["tasks"]
    shutil.rmtree(root / "images")
    assert run(*words) == 1
    kept = json.loads((tmp_path / "out" / "suite.json").read_text())["tasks"]["b"]
    assert kept == {**before["tasks"]["b"], "absent": f"{root / 'images'}: no such folder"}
    write_images(root / "images", train=4, test=2)
    assert run(*words, "schedule.steps=3") == 3
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert [report["tasks"][name]["measures"] for name in "bc"] == [{}, {}], "they are of other settings"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (["schedule.steps=3"], "schedule.steps 3, was 2"),
        (["optim.lr=0.5", "val_share=0"], "optim.lr 0.5, was 0.01; val_share 0.0, was 0.1"),
        (["--model=vit_small_patch16_224"], "model.name vit_small_patch16_224, was vit_tiny_patch16_224"),
        (["--config=c.yaml"], "schedule.steps 4, was 2"),
    ],
)
def test_tasks_that_were_done_by_other_settings_are_refused(change, difference, root, tmp_path, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(), "b": task()})
    words = [path, "--root", root, "--start=x=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words, "--task=b") == 0
    before = {each: each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file()}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**FINETUNE, "schedule": {"steps": 4}}))
    assert run(*words, "--task=a", *change) == 2
    line = f"suite: {tmp_path / 'out'}: holds task b with other settings ({difference}); give another --out"
    assert last_line(capfd) == line
    assert before == {each: each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file()}
    assert run(*words, "--task=a", "run.log_every=7", f"--data=b={root / 'elsewhere'}") == 0, "no result depends on it"
    assert json.loads((tmp_path / "out" / "suite.json").read_text())["complete"]
    record = tmp_path / "out" / "b" / "x" / "seed-0" / "compared.json"
    whole = record.read_text()
    for damaged in ("", "{}", '{"asked": 5}'):
        record.write_text(damaged)
        assert run(*words, "--task=a") == 2
        assert "seed-0/compared.json: missing or damaged; give --task b too" in last_line(capfd)
    assert run(*words, "--task=b") == 0
    assert record.read_text() == whole


def test_a_failed_task_and_the_others(root, tmp_path, monkeypatch, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={name: task() for name in ("fails", "b", "fails-too")})
    monkeypatch.setattr(
        SubprocessRunner,
        "start_process",
        lambda self, argv, log: (
            Ended(3) if f"{tmp_path / 'out' / 'fails'}" in " ".join(argv) else start_here(self, argv, log)
        ),
    )
    words = [path, "--root", root, "--start=x=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words, "--keep-going") == 3
    error = last_line(capfd)
    assert "task fails: x, seed 0: ended with exit code 3" in error and error.endswith("; 1 more task failed")
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    measures = {name: each["measures"] for name, each in report["tasks"].items()}
    assert measures["fails"] == measures["fails-too"] == {} and measures["b"]["last"]["x"]["n_runs"] == 1


def test_changed_images_and_changed_rules_are_one_line(root, tmp_path, capfd):
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task(split={"train": 9, "test": "test"})})
    words = [path, "--root", root, "--start=x=none", "--seeds=1", "--out", tmp_path / "out", *NET]
    assert run(*words) == 0
    write_suite(tmp_path / "s.yaml", tasks={"a": task(split={"train": 9, "test": "test", "seed": 1})})
    assert run(*words) == 2 and "is of another split than the suite's now; give another --out" in last_line(capfd)
    write_suite(tmp_path / "s.yaml", tasks={"a": task(split={"train": 9, "test": "test"})})
    (root / "images" / "train" / "a" / "new.png").write_bytes((root / "images" / "train" / "a" / "0.png").read_bytes())
    assert run(*words) == 1
    assert "task a: " in (line := last_line(capfd)) and "13 images in train, and there were 12" in line


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--start=x=none"], 2, "--out: give a folder"),
        (["--out=o"], 2, "--start: give NAME=WHERE"),
        (["--out=o", "--start=x=none", "--task=cras"], 2, "cras: no such task in s, did you mean 'cars'"),
        (["--out=o", "--start=x=none", "--data=b=images"], 2, "--data b=images: no such task"),
        (["--out=o", "--start=x=none", "--data=a"], 2, "--data a: give TASK=WHERE, as a=my-images"),
        (["--out=o", "--start=x=none", "--data=a=data/images/train"], 2, "task a: .*no test images"),
        (["--out=o", "--start=x=none", "--task=a"], 2, "task a: --model: give the architecture"),
        (["--out=o", "--start=x=none", "--task=a", *NET, "per_class=3"], 2, "per_class=3: the tasks say it"),
        (["--out=o", "--start=x=none", "--task=few", *NET], 2, "task few: .*3 classes, and the task has 7"),
        (["--out=o", "--start=x=none", "--task=many", *NET], 2, "task many: 99 images: train has 12 left"),
        (["--out=o", "--start=x=none", "--task=blind", *NET], 2, "task blind: .*no test images"),
        (["--check", "--protocol=lax"], 2, "--protocol"),
        (["--check", "metric=accuracy"], 2, "metric=accuracy: the tasks say it"),
        (["--check", "protocol=published"], 2, "protocol=published: give --protocol"),
        (["--check", "--config=s.yaml"], 2, "s.yaml: unknown key 'about'"),
        (["--check", "optim.lrr=3"], 2, "unknown key 'optim.lrr'"),
    ],
)
def test_what_is_refused_before_the_first_run(words, code, message, root, tmp_path, capfd):
    tasks = {
        "a": task(),
        "cars": task(),
        "few": {**task(), "classes": 7},
        "many": task(split={"train": 99}),
        "blind": task(split={"train": "train"}),
    }
    assert run(write_suite(tmp_path / "s.yaml", tasks=tasks), "--root", root, *words) == code
    assert re.search(message, line := last_line(capfd)), line
    assert not list(Path().glob("o/*/x/seed-*"))


def test_no_such_suite(capfd):
    assert run("sevn") == 2 and "sevn: no such suite, did you mean 'seven'? there are" in last_line(capfd).replace(
        ";", ""
    )
    assert run("no/such.yaml") == 2 and "no/such.yaml: no such file of a suite" in last_line(capfd)


def test_a_check_runs_nothing(root, tmp_path, capfd):
    tasks = {"a": task(images={"train": 13, "test": 9}), "b": task("nowhere", get="ask")}
    path = write_suite(tmp_path / "s.yaml", tasks=tasks)
    assert run(path, "--root", root, "--check") == 1
    out = capfd.readouterr().out
    assert re.search(r"^a +3 +accuracy +12 +- +9$", out, re.MULTILINE)
    assert "- a: 12 images in train, and 13 were published" in out
    assert f"- no images, b: {root / 'nowhere'}: no such folder; ask" in out
    assert run(path, "--root", root, "--check", f"--data=b={root / 'images'}") == 0
    assert {each.name for each in tmp_path.iterdir()} == {"data", "s.yaml"}


def test_the_published_protocol(root, tmp_path, capfd):
    write_images(root / "three", train=4, val=2, test=2)
    protocols = {"published": {"train_on": "train+val", "finetune": {"protocol": "published"}}}
    path = write_suite(tmp_path / "s.yaml", tasks={"a": task("three")}, protocols=protocols)
    words = [path, "--root", root, "--start=x=none", "--seeds=1", *NET]
    assert run(*words, "--protocol=published", "--out", tmp_path / "p") == 0
    assert run(*words, "--out", tmp_path / "h") == 0
    published, honest = (json.loads((tmp_path / name / "suite.json").read_text()) for name in "ph")
    assert published["tasks"]["a"]["images"] == {"train": 18, "test": 9}
    assert honest["tasks"]["a"]["images"] == {"train": 12, "val": 6, "test": 9}
    assert run(*words, "--out", tmp_path / "p") == 2
    assert last_line(capfd) == f"suite: {tmp_path / 'p'}: holds suite s, protocol published; give another --out"
    assert published == json.loads((tmp_path / "p" / "suite.json").read_text())
    assert "best_test" in published["tasks"]["a"]["measures"] and "chosen" in honest["tasks"]["a"]["measures"]


# the scripts that make tasks of what is shared


def script(name, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_the_lists_of_vtab(tmp_path, capsys):
    place = tmp_path / "vtab-1k" / "clevr_count"
    for name, count in (("train800", 16), ("val200", 8), ("test", 8)):
        (place / "images" / name).mkdir(parents=True)
        for number in range(count):
            picture(0, number).save(place / "images" / name / f"{number:06d}.jpg")
        lines = (f"images/{name}/{number:06d}.jpg {number % 8}\n" for number in range(count))
        (place / f"{name}.txt").write_text("".join(lines))
    script("vtab_lists.py", tmp_path / "vtab-1k")
    capsys.readouterr()
    assert run("vtab-1k", "--root", tmp_path, "--task=clevr-count", "--check") == 0
    out = capsys.readouterr().out
    assert re.search(r"^clevr-count +8 +accuracy +16 +8 +8$", out, re.MULTILINE)
    assert "8 images in test, and 15,000 were published" in out
    assert run("vtab-1k", "--root", tmp_path, "--task=clevr-count", "--check", "--protocol=published") == 0
    assert re.search(r"^clevr-count +8 +accuracy +24 +- +8$", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(SystemExit, match=r"no \*/train800\.txt in it"):
        script("vtab_lists.py", tmp_path / "images")


def test_the_objects_of_voc(tmp_path):
    voc = tmp_path / "VOC2012"
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (voc / name).mkdir(parents=True)
    box = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"
    hard = box.format("hen", 1, 16).replace("</name>", "</name><difficult>1</difficult>")
    for number, split in enumerate(("train", "val")):
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text(f"i{number}\n")
        picture(number, number).save(voc / "JPEGImages" / f"i{number}.jpg")
        boxes = box.format("cat", 1, 16) + box.format("dog", 3, 6) + hard
        (voc / "Annotations" / f"i{number}.xml").write_text(f"<annotation>{boxes}</annotation>")
    script("voc_objects.py", voc, tmp_path / "voc12")
    assert {str(each.relative_to(tmp_path / "voc12")) for each in (tmp_path / "voc12").rglob("*.jpg")} == {
        f"{split}/{name}/i{number}-{n}.jpg"
        for number, split in enumerate(("train", "test"))
        for n, name in enumerate(("cat", "dog"))
    }
    assert Image.open(tmp_path / "voc12" / "train" / "cat" / "i0-0.jpg").size == (16, 8)
    assert Image.open(tmp_path / "voc12" / "test" / "dog" / "i1-1.jpg").size == (4, 8)
    shutil.rmtree(voc)
