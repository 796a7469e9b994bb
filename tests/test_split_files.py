"""Files of sample ids: what they choose, what they are checked against, and the metric that counts classes alike."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fracgen.shards.errors import AbsentError, DataError, UsageError
from fracgen.train.data.split_files import join, read_split_file, sample_ids, write_split_file
from fracgen.train.data.splits import open_sources, open_splits
from fracgen.train.engine.evaluate import Scores

CLASSES = ("ant", "bee", "cat")


def write_images(folder, count=6):
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (80 * label, number, 7)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    for split, count in (("train", 6), ("test", 2)):
        write_images(tmp_path / "set" / split, count)
    return tmp_path / "set"


def write(path, sources, **ids):
    write_split_file(path, sources, ids)
    return str(path)


def labels_and_greens(examples):
    return [(int(label), examples.open(n).getpixel((0, 0))[1]) for n, label in enumerate(examples.labels)]


def test_ids_choose_the_images_of_each_role(images, tmp_path):
    sources = open_sources(str(images))
    every = sample_ids(sources)
    assert every["train"][0] == "train/ant/0.png" and every["test"][-1] == "test/cat/1.png"
    ids = {
        "train": [*every["train"][7:11], *every["test"][:2], *every["train"][::12]],
        "val": every["train"][1:3],
        "test": every["test"][2:],
    }
    path = write(tmp_path / "split.json", sources, **ids)
    splits = open_splits(str(images), split=path)
    assert labels_and_greens(splits.train) == [(0, 0), *((1, n) for n in range(1, 5)), (2, 0), (0, 0), (0, 1)]
    assert labels_and_greens(splits.val) == [(0, 1), (0, 2)]
    assert labels_and_greens(splits.test) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert f"split by {path}" in splits.description
    order = open_splits(str(images), split=write(tmp_path / "b.json", sources, **ids | {"train": ids["train"][::-1]}))
    assert order.train.fingerprint == splits.train.fingerprint, "the order of the file changes nothing"
    other = open_splits(str(images), split=write(tmp_path / "c.json", sources, **ids | {"val": every["train"][3:5]}))
    assert other.val.fingerprint != splits.val.fingerprint


def test_a_class_without_training_images_is_refused(images, tmp_path):
    sources = open_sources(str(images))
    path = write(tmp_path / "split.json", sources, train=sample_ids(sources)["train"][:7])
    with pytest.raises(UsageError, match="class 'cat' without images"):
        open_splits(str(images), split=path)


def test_a_split_of_everything_is_the_set_as_it_lies(images, tmp_path):
    sources = open_sources(str(images))
    path = write(tmp_path / "split.json", sources, **sample_ids(sources))
    ours, plain = open_splits(str(images), split=path, val_share=0), open_splits(str(images), val_share=0)
    assert (ours.train.fingerprint, ours.test.fingerprint) == (plain.train.fingerprint, plain.test.fingerprint)
    held_out = open_splits(str(images), split=path, val_share=0.5, per_class=4)
    assert (len(held_out.train), len(held_out.val), len(held_out.test)) == (6, 6, 6)


def test_class_folders_without_splits_are_enough(tmp_path):
    flat = write_images(tmp_path / "flat")
    sources = open_sources(str(flat))
    ids = sample_ids(sources)["train"]
    assert list(sources) == ["train"] and ids[0] == "train/ant/0.png"
    path = write(tmp_path / "split.json", sources, train=ids[::2], test=ids[1::2])
    assert labels_and_greens(open_splits(str(flat), split=path).test) == [(n, g) for n in range(3) for g in (1, 3, 5)]
    with pytest.raises(UsageError, match="no train/ in it"):
        open_splits(str(flat))


def test_tars_have_ids_too(tmp_path):
    with tarfile.open(tmp_path / "a-0.tar", "w") as tar:
        for number in range(6):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (0, number, 0)).save(file, "png")
            for extension, data in (("cls", str(number % 2).encode()), ("png", file.getvalue())):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    sources = open_sources(str(tmp_path / "a-{0..0}.tar"), num_classes=2)
    ids = sample_ids(sources)["train"]
    assert ids[3] == "train/a-0.tar: sample 0003"
    path = write(tmp_path / "split.json", sources, train=ids[:4], test=ids[4:])
    splits = open_splits(str(tmp_path / "a-{0..0}.tar"), num_classes=2, split=path, val_share=0)
    assert labels_and_greens(splits.test) == [(0, 4), (1, 5)] and len(splits.train) == 4


CHANGES = [
    (lambda path: (path / "train" / "ant" / "9.png").write_bytes(b"x"), "19 images in train, and there were 18$"),
    (
        lambda path: (path / "test" / "bee" / "0.png").unlink(),
        "5 images in test, and there were 6; 'test/bee/0.png' not there$",
    ),
    (
        lambda path: (path / "train" / "cat" / "0.png").rename(path / "train" / "cat" / "new.png"),
        "'train/cat/0.png' not there$",
    ),
    (
        lambda path: (path / "train" / "cat" / "0.png").write_bytes(b"other"),
        "as many images in train, but other names, sizes or labels$",
    ),
    (lambda path: shutil.rmtree(path / "test"), "no split test any more; 'test/ant/0.png' and 5 more not there$"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_changed_is_one_line(change, message, images, tmp_path):
    sources = open_sources(str(images))
    path = write(tmp_path / "split.json", sources, **sample_ids(sources))
    change(images)
    with pytest.raises(DataError, match=message) as raised:
        open_splits(str(images), split=path)
    assert str(raised.value).startswith(f"{images / 'train'}: not what {path} was written of: ")


def test_ids_by_hand_need_no_checksum(images, tmp_path):
    path = tmp_path / "mine.json"
    train = [f"train/{name}/{n}.png" for name in CLASSES for n in (1, 2)]
    path.write_text(json.dumps({"train": train, "test": ["test/cat/0.png"]}))
    (images / "train" / "ant" / "0.png").unlink()
    assert len(open_splits(str(images), split=str(path), val_share=0).train) == 6
    path.write_text(json.dumps({"train": [*train, "train/ant/0.png"]}))
    with pytest.raises(DataError, match=r"'train/ant/0.png' not there"):
        open_splits(str(images), split=str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a file of sample ids"),
        ("[]", "not a file of sample ids"),
        ('{"trian": []}', "unknown key 'trian', did you mean 'train'"),
        ('{"test": ["test/a"]}', "no samples to train on"),
        ('{"train": ["a", "a"]}', "'a' is twice in train"),
        ('{"train": ["a", "b"], "test": ["b"]}', "'b' is in train and in test"),
        ('{"train": "a"}', "train must be a list"),
        ('{"train": [3]}', "train must be a list"),
        ('{"train": ["a"], "version": 2}', "not a split of version 1"),
        ('{"train": ["a"], "source": {"train": {"images": 3}}}', "source must have images and sha256"),
        ('{"train": ["a"], "source": [3]}', "source must have"),
    ],
)
def test_a_file_that_is_none(text, message, tmp_path):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_split_file(tmp_path / "split.json")


def test_what_excludes_it(images, tmp_path):
    with pytest.raises(UsageError, match="leave these out"):
        open_splits(str(images), split="x.json", test="y")
    with pytest.raises(UsageError, match="no such file of sample ids"):
        open_splits(str(images), split=str(tmp_path / "x.json"))
    with pytest.raises(AbsentError, match="no such folder"):
        open_sources(str(tmp_path / "nowhere"))


def test_joined_examples_are_their_parts(images):
    sources = open_sources(str(images))
    both = join([sources["test"].subset([5, 1]), sources["train"]])
    assert len(both) == 20 and both.labels.tolist() == [2, 0, *sources["train"].labels]
    assert labels_and_greens(both)[:3] == [(2, 1), (0, 1), (0, 0)] and both.describe(2).endswith("ant/0.png")
    names = [both.sample_name(number) for number in range(20)]
    assert len(set(names)) == 20 and names[:3] == ["0/cat/1.png", "0/ant/1.png", "1/ant/0.png"]
    assert both.subset([19, 0]).labels.tolist() == [2, 2]


def test_the_mean_over_classes():
    confusion = np.array([[8, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 3]])
    scores = Scores(images=15, right=11, in_top5=None, confusion=confusion)
    assert scores.value("accuracy") == 11 / 15 and scores.value("mean-per-class") == pytest.approx((0.8 + 0 + 0.75) / 3)
    assert scores.named("test", "best", "mean-per-class") == {
        "test_accuracy_best": round(11 / 15, 6),
        "test_mean_per_class_best": round((0.8 + 0.75) / 3, 6),
    }
    nothing = Scores(images=0, right=0, in_top5=None, confusion=np.zeros((3, 3), np.int64))
    assert nothing.mean_per_class == 0


def test_a_run_by_ids_and_the_mean_over_classes(images, tmp_path, capsys):
    from fracgen.train import finetune

    sources = open_sources(str(images))
    ids = sample_ids(sources)
    path = write(tmp_path / "split.json", sources, train=ids["train"][::2], val=ids["train"][1::2], test=ids["test"])
    words = ["--data", images, "--split", path, "--metric=mean-per-class", "--out", tmp_path / "run", "--steps=2"]
    words += ["--batch-size=4", "--workers=0", "--device=cpu", "augment.size=8", "--model=vit_tiny_patch16_224"]
    words += [f"model.options.{each}" for each in ("patch_size=8", "depth=1", "embed_dim=16", "num_heads=2")]
    torch.manual_seed(0)
    assert finetune.run([*map(str, words), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert outcome["test_mean_per_class_best"] == results["best"]["mean_per_class"]
    assert results["best"]["val_mean_per_class"] == pytest.approx(outcome["val_mean_per_class_best"], abs=1e-6)
    assert results["best"]["images"] == 6 and results["config"]["metric"] == "mean-per-class"
    (images / "train" / "ant" / "0.png").unlink()
    assert finetune.run(list(map(str, words))) == 1
    assert "'train/ant/0.png' not there" in capsys.readouterr().err.splitlines()[-1]
