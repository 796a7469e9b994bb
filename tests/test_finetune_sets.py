"""Labelled sets that fine-tuning takes, and sets and words that it refuses in one line."""

import re

import pytest
from PIL import Image
from test_finetune import data as data
from test_finetune import results_of, tune, write_images

from fracgen.shards.errors import UsageError
from fracgen.train.data.splits import open_splits


def test_top5_where_there_are_more_classes(tmp_path):
    write_images(tmp_path / "set" / "train", 4, classes=7)
    write_images(tmp_path / "set" / "test", 3, classes=7, seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert values["best"]["top1"] <= values["best"]["top5"] <= 1 and values["test_top5_best"] == values["best"]["top5"]


def test_val_beside_train_alone_is_reported_on(tmp_path):
    write_images(tmp_path / "set" / "train", 12)
    write_images(tmp_path / "set" / "val", 5, seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert values["split"] == "test" and values["last"]["images"] == 15 and values["best"]["chosen_on"] == "val"


def test_without_a_test_split_the_validation_split_is_told(tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 12)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3") == 0
    values = results_of(tmp_path / "run")
    assert (
        values["split"] == "val" and "val_accuracy_last" in values and not [n for n in values if n.startswith("test")]
    )
    assert tune(tmp_path / "set", tmp_path / "other", "--steps=3", "--protocol=published") == 2
    assert "no test split to choose on" in capsys.readouterr().err


def test_images_of_many_sizes(tmp_path, capsys):
    write_images(tmp_path / "set" / "train", 6, size=lambda n: (40 + n, 36 + 2 * n))
    write_images(tmp_path / "set" / "test", 3, size=lambda n: (50 - n, 36), seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3", "--workers=2") == 0
    assert "stream: images differ in size" in capsys.readouterr().err
    assert results_of(tmp_path / "run")["last"]["images"] == 9
    assert tune(tmp_path / "set", tmp_path / "none", "--steps=3") == 2
    assert "--resize N" in capsys.readouterr().err
    assert tune(tmp_path / "set", tmp_path / "resized", "--steps=3", "--resize=32") == 0
    assert "memory" in capsys.readouterr().err and results_of(tmp_path / "resized")["last"]["images"] == 9


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "I;16"])
def test_images_of_other_modes(tmp_path, mode):
    write_images(tmp_path / "set" / "train", 4)
    for path in (tmp_path / "set" / "train" / "class01").iterdir():
        image = Image.open(path)
        (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path)
    write_images(tmp_path / "set" / "test", 2, mode="L", seed=1)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=1") == 0
    assert results_of(tmp_path / "run")["last"]["images"] == 6


def bad_set(folder, kind):
    write_images(folder / "train", 4)
    write_images(folder / "test", 2, seed=1)
    if kind == "broken":
        (folder / "train" / "class01" / "002.png").write_bytes(b"no picture")
    if kind == "broken test":
        path = folder / "test" / "class01" / "001.png"
        path.write_bytes(path.read_bytes()[:60])
    if kind == "empty class":
        (folder / "train" / "class03").mkdir()
    if kind == "one class":
        for each in ("train/class01", "train/class02", "test/class01", "test/class02"):
            (folder / each).rename(folder / each.replace("/", "-"))
    if kind == "a class more":
        write_images(folder / "more", 2, classes=4)
        (folder / "more" / "class03").rename(folder / "test" / "class03")
    if kind == "a class less":
        (folder / "test" / "class01").rename(folder / "gone")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("broken", r"train/class01/002\.png: no JPEG, PNG"),
        ("broken test", r"test/class01/001\.png"),
        ("empty class", "train/class03: a class without images"),
        ("one class", "only one class, 'class00'"),
        ("a class more", "has also 'class03'"),
        ("a class less", "lacks 'class01'"),
    ],
)
@pytest.mark.parametrize("feed", [["--loader=memory"], ["--loader=stream", "--workers=1"]], ids=["memory", "stream"])
def test_bad_sets_are_one_line_and_exit_code_2(tmp_path, capsys, kind, message, feed):
    bad_set(tmp_path / "set", kind)
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=2", *feed) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, err[-1]) and err[-1].startswith("finetune: ") and "Traceback" not in "".join(err)


@pytest.mark.parametrize("feed", [["--loader=memory"], ["--loader=stream", "--workers=1"]], ids=["memory", "stream"])
@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
def test_what_is_broken_is_counted_where_asked_for(tmp_path, feed):
    bad_set(tmp_path / "set", "broken")
    bad_set(tmp_path / "other", "broken test")
    (tmp_path / "other" / "test" / "class01" / "001.png").rename(tmp_path / "set" / "test" / "class01" / "001.png")
    assert tune(tmp_path / "set", tmp_path / "run", "--steps=3", "--skip-bad", "--val-share=0", *feed) == 0
    values = results_of(tmp_path / "run")
    assert values["skipped"] == {"image": 2} and values["last"]["images"] == 5


def test_no_split_is_another_one(data, tmp_path):
    (tmp_path / "link").symlink_to(data / "train")
    for split in ("val", "test"):
        with pytest.raises(UsageError, match=rf"--{split} .*train: the images that are trained on"):
            open_splits(str(data), **{split: str(tmp_path / "link")})
    with pytest.raises(UsageError, match=r"--val .*test: .* reported on too; leave .*--protocol published"):
        open_splits(str(data), val=f"{data}/./test")


def test_folders_of_classes_that_are_no_split_are_told(tmp_path):
    for name in ("train", "dev", "testing"):
        write_images(tmp_path / name, 2)
    (tmp_path / "labels").mkdir()
    assert "not read: 'dev', 'testing' (give" in open_splits(str(tmp_path)).description
    assert "not read: 'dev' (give" in open_splits(str(tmp_path), test=str(tmp_path / "testing")).description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=nowhere"], "no such file or folder"),
        (["--model=vit_tiny_patch8_224"], "did you mean"),
        (["--batch-size=7"], "make it even"),
        (["--num-classes=7"], "3 classes"),
        (["--val-share=1"], "--val-share 1"),
        (["--per-class=50"], "50 images per class"),
        (["--seeds=0"], "seeds"),
        (["--epochs=0"], "epochs 0"),
        (["--steps=2", "--epochs=1"], "give one of them"),
        (["eval_crop=0"], "eval_crop 0"),
        (["check_epochs=0"], "check_epochs 0"),
        (["--protocol=best"], "best"),
        (["checkpont=x"], "did you mean 'checkpoint'"),
        (["--val=nowhere"], "nowhere"),
        (
            ["--data=torch/cifar10O"],
            "no such set (AssertionError: Unknown torchvision dataset cifar10o), did you mean 'torch/cifar10'?",
        ),
        (["--lr=0"], "--lr 0.0: must be"),
        (["--feed=stream"], "--loader memory or --loader stream now"),
        (["feed.mode=stream"], "feed.mode is loader.mode now"),
        (["--tensorboard"], "is --log tensorboard now"),
        (["--log=mlflow"], "mlflow"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(data, tmp_path, capsys, arguments, message):
    assert tune(data, tmp_path / "run", *arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1] and "Traceback" not in "".join(err)
    assert not (tmp_path / "run").exists(), "nothing is written"
