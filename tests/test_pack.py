"""Image folders into shards: the files as they are, the same bytes every time, bad input told in one line."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from conftest import contents
from PIL import Image

from fracgen.cli.app import run
from fracgen.pack import pack, plan
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.imagefolder import list_images
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import open_shards, read_tar
from fracgen.shards.verify import verify_folder


@pytest.fixture
def fracgen(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def draw(path, *, size=(12, 9), mode="RGB", seed=0, **options):
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[path.suffix[1:].lower()]
    Image.fromarray(pixels, mode).save(path, options.pop("format", kind), **options)


def make_set(root, *, per_class=12, split="train"):
    """Three classes of RGB JPEGs of one size, in folders made in no order."""
    for label, name in enumerate(["dog", "ant", "cat"]):
        for number in reversed(range(per_class)):
            draw(root / split / name / f"{number}.jpg", seed=100 * label + number)
    return root


def packed(root, out, *, num_shards=None, seed=0, **options):
    images = list_images(root)
    return pack(images, out, plan(images, num_shards=num_shards, seed=seed), **options)


def test_files_are_kept_and_labelled_by_sorted_class(fracgen, tmp_path):
    make_set(tmp_path / "set")
    code, out, err = fracgen("pack", "set", "--split", "train")
    assert (code, err) == (0, "") and "36 of 3 classes, in 2 shards" in out
    folder = tmp_path / "set-shards" / "train"
    manifest = load_manifest(folder)
    assert manifest.class_names == ("ant", "cat", "dog")
    assert (manifest.image.width, manifest.image.height, manifest.image.mode) == (12, 9, "RGB")
    assert (
        manifest.image.original
        and manifest.image.one_size
        and json.loads((folder / "dataset.json").read_text())["version"] == 3
    )
    seen = set()
    for shard in manifest.shards:
        for raw in read_tar(folder / shard.name, "jpg"):
            name = raw.metadata["file"]
            seen.add(name)
            assert raw.image_bytes == (tmp_path / "set" / "train" / name).read_bytes()
            assert manifest.class_names[raw.label] == name.split("/")[0]
            assert {key: raw.metadata[key] for key in ("format", "width", "height", "mode")} == {
                "format": "JPEG", "width": 12, "height": 9, "mode": "RGB",
            }  # fmt: skip
    assert len(seen) == 36
    for sample in open_shards(folder):
        with Image.open(tmp_path / "set" / "train" / sample.metadata["file"]) as picture:
            assert np.array_equal(sample.image, np.asarray(picture))
    assert fracgen("verify", folder)[:2] == (0, "36 images in 2 shards: all good\n")
    assert "12 x 9 jpg, mode RGB, files as they were found" in fracgen("inspect", folder)[1]
    assert fracgen("preview", folder, "-o", "sheet.png", "--tile", 32)[0] == 0
    assert Image.open("sheet.png").width == max(6 + 3 * 38, 214)
    assert "nothing to do" in fracgen("pack", "set", "--split", "train")[1]
    code, _, err = fracgen("verify", folder, "--render")
    assert code == 2 and "packed, not rendered" in err
    assert str(tmp_path) not in (folder / "dataset.json").read_text()


def test_bytes_depend_on_nothing_else(tmp_path):
    make_set(tmp_path / "a")
    for number in range(12):  # the same files, made in another order and elsewhere
        for name in ("cat", "dog", "ant"):
            target = tmp_path / "elsewhere" / "b" / "train" / name / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "a" / "train" / name / f"{number}.jpg", target)
    packed(tmp_path / "a" / "train", tmp_path / "one", workers=1, num_shards=5)
    packed(tmp_path / "elsewhere" / "b" / "train", tmp_path / "two", workers=4, num_shards=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    packed(tmp_path / "a" / "train", tmp_path / "other", num_shards=5, seed=1)
    orders = [
        [raw.key for raw in read_tar(tmp_path / name / "images-train-000000.tar", "jpg")] for name in ("one", "other")
    ]
    assert orders[0] != orders[1]
    with pytest.raises(UsageError, match=r"laid out otherwise \(seed 0\)"):
        packed(tmp_path / "a" / "train", tmp_path / "one", num_shards=5, seed=1)


def test_a_killed_run_goes_on(tmp_path):
    root = make_set(tmp_path / "set", per_class=40) / "train"
    packed(root, tmp_path / "whole", num_shards=30)
    command = [sys.executable, "-m", "fracgen", "pack", str(root), "--out", str(tmp_path / "cut"), "--shards", "30"]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "cut" / ".partial" / "000002.json").exists():
        time.sleep(0.001)
    process.kill()
    process.wait()
    result = packed(root, tmp_path / "cut", num_shards=30)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert result.new_samples < 120
    (tmp_path / "cut" / "images-train-000007.tar").unlink()
    assert packed(root, tmp_path / "cut", num_shards=30).new_samples == 4
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_source_that_changed_is_refused(tmp_path):
    root = make_set(tmp_path / "set") / "train"
    (root / "cat" / "3.jpg").write_bytes(whole := (root / "cat" / "3.jpg").read_bytes()[:300])
    with pytest.raises(UsageError, match=r"cat/3\.jpg"):
        packed(root, tmp_path / "out", num_shards=12, workers=1)
    packed(root, tmp_path / "out", num_shards=12, skip_bad=True)
    before = contents(tmp_path / "out")
    (root / "cat" / "3.jpg").write_bytes(whole + b"x")
    with pytest.raises(UsageError, match=r"packed from other files \(36 of 3 classes, now 36 of 3"):
        packed(root, tmp_path / "out", num_shards=12)
    draw(root / "cat" / "new.jpg")
    with pytest.raises(UsageError, match="now 37 of 3"):
        packed(root, tmp_path / "out", num_shards=12)
    assert contents(tmp_path / "out") == before


def test_an_unfinished_folder_of_other_files_is_refused(tmp_path):
    root = make_set(tmp_path / "set") / "train"
    (root / "ant" / "0.jpg").write_bytes(b"nothing")
    images = list_images(root)
    layout = plan(images, num_shards=36)
    assert layout.indices(0)[0] != 0, "the bad file is not in the first shard"
    with pytest.raises(UsageError, match=r"ant/0.jpg: no JPEG, PNG or WebP image; --skip-bad"):
        pack(images, tmp_path / "out", layout, workers=1)
    assert (tmp_path / "out" / ".partial").is_dir(), "finished shards are kept"
    draw(root / "ant" / "0.jpg")
    with pytest.raises(UsageError, match="packed from other files"):
        packed(root, tmp_path / "out", num_shards=36)


def test_bad_files_are_named_or_left_out(fracgen, tmp_path):
    root = make_set(tmp_path / "set") / "train"
    whole = (root / "dog" / "5.jpg").read_bytes()
    (root / "dog" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    code, out, err = fracgen("pack", root, "--out", "out", "--workers", 1)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "dog/5.jpg: cannot be decoded" in err and "--skip-bad leaves such files out" in err
    assert (tmp_path / "out").exists() == ("finished shards are kept" in err)
    (root / "cat" / "1.jpg").write_bytes(b"")
    Image.new("I;16", (4, 4)).save(root / "cat" / "deep.png")  # is read as 8 bits everywhere
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    code, out, err = fracgen("pack", root, "--out", "out", "--skip-bad")
    assert (code, err) == (0, "") and "1 damaged, 1 no image, of 37 files" in out
    manifest = load_manifest(tmp_path / "out")
    assert manifest.num_samples == 35 and manifest.rejections == {"damaged": 1, "no image": 1}
    skipped = {name for shard in manifest.shards for name in shard.skipped.values()}
    assert skipped == {"cat/1.jpg", "dog/5.jpg"}
    assert verify_folder(open_shards(tmp_path / "out")) == []
    assert len(list(open_shards(tmp_path / "out"))) == 35


def test_nothing_is_left_where_the_first_shard_is_bad(fracgen, tmp_path):
    draw(tmp_path / "set" / "a" / "1.png")
    (tmp_path / "set" / "a" / "2.jpg").write_bytes(b"GIF89a")
    code, _, err = fracgen("pack", "set", "--out", "out/deep")
    assert code == 2 and "a/2.jpg: no JPEG" in err.replace("set/", "")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert fracgen("pack", "set", "--out", "out")[0] == 2
    assert not list((tmp_path / "out").iterdir()), "an empty folder of the user's stays, and stays empty"
    (tmp_path / "set" / "a" / "1.png").unlink()
    code, _, err = fracgen("pack", "set", "--skip-bad")
    assert code == 2 and "no file of shard" in err and not (tmp_path / "set-shards").exists()


def test_mixed_sizes_modes_and_formats(tmp_path):
    root = tmp_path / "set"
    draw(root / "a" / "1.jpg", size=(20, 10))
    draw(root / "a" / "2.JPEG", size=(8, 30), mode="CMYK")
    draw(root / "a" / "3.png", mode="RGBA")
    draw(root / "b" / "4.png", mode="LA")
    draw(root / "b" / "deep" / "5.webp", size=(5, 5))
    draw(root / "b" / "deep" / "6.jpg", mode="L")
    draw(root / "b" / "7.jpg", format="PNG")
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(root / "b" / "8.jpg", size=(20, 10), exif=turned)
    manifest = packed(root, tmp_path / "out").manifest
    image = manifest.image
    assert (image.extension, image.width, image.height, image.mode, image.one_size) == ("jpg", 20, 30, "RGB", False)
    assert manifest.counts == {"CMYK": 1, "L": 1, "LA": 1, "RGB": 4, "RGBA": 1}
    samples = {sample.metadata["file"]: sample for sample in open_shards(tmp_path / "out")}
    assert samples["a/1.jpg"].image.shape == (10, 20, 3) and samples["b/deep/6.jpg"].image.shape == (9, 12, 3)
    assert samples["b/8.jpg"].image.shape == (10, 20, 3), "EXIF's orientation is not applied"
    assert samples["b/7.jpg"].metadata["format"] == "PNG" and samples["b/deep/5.webp"].metadata["format"] == "WEBP"
    pixels = np.asarray(Image.open(root / "a" / "3.png")).astype(int)
    assert np.abs(samples["a/3.png"].image - pixels[..., :3] * pixels[..., 3:] / 255).max() <= 1, "alpha over black"
    assert verify_folder(open_shards(tmp_path / "out")) == []


def test_gray_sets_stay_gray(tmp_path):
    for number, mode in enumerate(["L", "LA"]):
        draw(tmp_path / "set" / "a" / f"{number}.png", mode=mode)
    assert packed(tmp_path / "set", tmp_path / "out").manifest.image.mode == "L"
    assert {sample.image.shape for sample in open_shards(tmp_path / "out")} == {(9, 12)}


def test_splits(fracgen, tmp_path):
    make_set(tmp_path / "set")
    make_set(tmp_path / "set", split="val", per_class=2)
    code, out, _ = fracgen(
        "pack", "set", "--split", "train", "--split", "val", "--out", "where", "--json", "--name", "x"
    )
    assert code == 0 and [each["images"] for each in json.loads(out)] == [36, 6]
    info = json.loads((tmp_path / "where" / "val" / "_info.json").read_text())
    assert info["splits"]["val"]["filenames"] == ["x-val-000000.tar"]
    assert "split: val" in (tmp_path / "where" / "val" / "README.md").read_text()
    shutil.rmtree(tmp_path / "set" / "val" / "cat")
    code, _, err = fracgen("pack", "set", "--split", "train", "--split", "val", "--out", "there")
    assert code == 2 and "class cat is not in both" in err and not (tmp_path / "there").exists()
    shutil.rmtree(tmp_path / "where" / "val")
    code, _, err = fracgen("pack", "set", "--split", "val", "--out", "where")
    assert code == 2 and "class cat is not in both" in err and not (tmp_path / "where" / "val").exists()
    for arguments, message in [
        (("set",), "holds splits; give --split train"),
        (("set", "--split", "trian"), "did you mean 'train'"),
        (("set", "--split", "../set"), "only letters"),
        (("set", "--split", "train", "--split", "train"), "each once"),
    ]:
        code, _, err = fracgen("pack", *arguments, "--out", "there")
        assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "there").exists()


def test_what_is_no_image_folder(fracgen, tmp_path):
    def refused(message, *arguments):
        code, out, err = fracgen("pack", *arguments, "--out", "out")
        assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err
        assert not (tmp_path / "out").exists()

    root = tmp_path / "set"
    refused("no such folder", "set")
    root.mkdir()
    refused("no class folders", "set")
    (tmp_path / "file").write_text("x")
    refused("neither a folder nor a table", "file")
    draw(root / "cat" / "1.png")
    (root / "empty").mkdir()
    refused("a class without images (it is empty)", "set")
    (root / "empty" / "a.gif").write_bytes(b"x")
    refused("a class without images (1 .gif: not .jpg", "set")
    shutil.rmtree(root / "empty")
    draw(root / "2.png")
    refused("2.png: an image beside the class folders", "set")
    (root / "2.png").unlink()
    for name, message in [("a\nb", "control characters"), (os.fsdecode(b"\xff"), "not UTF-8")]:
        draw(root / name / "1.png")
        refused(message, "set")
        shutil.rmtree(root / name)
    draw(root / "caf\u00e9" / "1.png")
    draw(root / "cafe\u0301" / "1.png")
    refused("the same name but for how accents", "set")
    shutil.rmtree(root / "cafe\u0301")
    (root / "cat" / "up").symlink_to(root)
    code, _, err = fracgen("pack", "set", "--out", "looped")
    assert code == 0 and "1 link to a folder above: what lies there is listed already" in err
    assert load_manifest(tmp_path / "looped").num_samples == 2
    (root / "cat" / "up").unlink()
    (root / "cat" / "gone.png").symlink_to("nowhere")
    refused("a link to nothing", "set")
    (root / "cat" / "gone.png").unlink()
    os.mkfifo(root / "cat" / "pipe.png")
    refused("no plain file", "set")
    (root / "cat" / "pipe.png").unlink()
    code, _, err = fracgen("pack", "set", "--out", "set/shards")
    assert code == 2 and "lies within" in err and not (root / "shards").exists()
    refused("only letters, digits", "set", "--name", "a.b")
    refused("--shards 3", "set", "--shards", 3)


def test_links_are_followed_and_hidden_files_ignored(fracgen, tmp_path):
    draw(tmp_path / "apart" / "1.png")
    root = tmp_path / "set"
    draw(root / "cat" / "2.png", seed=2)
    (root / "cat" / "3.png").symlink_to(tmp_path / "apart" / "1.png")
    (root / "linked").symlink_to(tmp_path / "apart")
    for junk in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "cat/.hidden.png"):
        (root / junk).write_bytes(b"x")
    (root / "cat" / ".ipynb_checkpoints").mkdir()
    assert fracgen("pack", "set")[::2] == (0, "")
    assert load_manifest(tmp_path / "set-shards").class_names == ("cat", "linked")
    (root / "cat" / "notes.txt").write_text("x")
    (root / "classes.csv").write_text("x")
    code, _, err = fracgen("pack", "set", "--out", "out", "--no-metadata")
    assert code == 0 and "1 .csv, 1 .txt: no images by their extension" in err
    assert load_manifest(tmp_path / "out").provenance == {"other_files": {".csv": 1, ".txt": 1}}
    with tarfile.open(tmp_path / "out" / "images-train-000000.tar") as tar:
        assert {name.split(".")[1] for name in tar.getnames()} == {"cls", "png"}


def test_changed_bytes_and_labels_are_found(tmp_path):
    root = make_set(tmp_path / "set", per_class=2) / "train"
    packed(root, tmp_path / "out")
    tar = tmp_path / "out" / "images-train-000000.tar"
    whole = tar.read_bytes()
    place = whole.index(b"\xff\xd8") + 200
    tar.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert any("sha256 differs" in problem for problem in verify_folder(open_shards(tmp_path / "out")))


def test_merge_and_parts_are_not_for_packed_folders(fracgen, tmp_path):
    root = make_set(tmp_path / "set") / "train"
    packed(root, tmp_path / "out")
    code, _, err = fracgen("merge", "out")
    assert code == 2 and "packed whole" in err
    code, _, err = fracgen("render", "--recipe", "out")
    assert code == 2 and "packed from files" in err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kinds", [("jpg",), ("png", "jpg", "webp")])
def test_stock_readers(tmp_path, monkeypatch, kinds):
    import datasets
    import timm.data
    import webdataset

    for number in range(40):
        draw(tmp_path / "set" / "val" / "ab"[number % 2] / f"{number}.{kinds[number % len(kinds)]}", seed=number)
    images = list_images(tmp_path / "set" / "val", split="val")
    out = tmp_path / "out"
    manifest = pack(images, out, plan(images, split="val")).manifest
    expected = {sample.metadata["file"]: sample for sample in open_shards(out)}
    extension = manifest.image.extension

    def check(rows):
        by_name = {name: (np.asarray(image.convert("RGB")), label) for image, label, name in rows}
        assert sorted(by_name) == sorted(expected)
        for name, (image, label) in by_name.items():
            assert label == expected[name].label and np.array_equal(image, expected[name].image)

    urls = str(out / "images-val-{000000..000001}.tar")
    rows = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple(extension, "cls", "json")
    check((image, label, values["file"]) for image, label, values in rows)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    rows = datasets.load_dataset(str(out), split="val", cache_dir=str(tmp_path / "cache"))
    check((row[extension], row["cls"], row["json"]["file"]) for row in rows)
    dataset = timm.data.create_dataset("wds/x", str(out), split="val", is_training=False, batch_size=4)
    assert len(dataset) == 40
    assert sorted(label for _, label in dataset) == [0] * 20 + [1] * 20


def test_training_reads_packed_folders(tmp_path):
    import torch

    from fracgen.train.data.loader import TrainLoader
    from fracgen.train.data.opening import open_examples
    from fracgen.train.data.settings import LoaderSettings
    from fracgen.train.ranks import Ranks

    draw(tmp_path / "set" / "a" / "1.jpg", size=(20, 10))
    draw(tmp_path / "set" / "b" / "2.png", size=(8, 30), mode="RGBA")
    packed(tmp_path / "set", tmp_path / "out")
    examples = open_examples(str(tmp_path / "out"))
    assert (len(examples), examples.class_names, str(examples.shape)) == (2, ("a", "b"), "20 x 30 (the largest) RGB")
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"differ in size: .* images up to 20 wide and up to 30 high; give --resize"):
        TrainLoader(examples, LoaderSettings(batch_size=2), seed=0, ranks=ranks)
    stored = {sample.label: sample.image for sample in open_shards(tmp_path / "out")}
    for number, label in enumerate(examples.labels.tolist()):
        assert np.array_equal(np.asarray(examples.open(number)), stored[label])
    loader = TrainLoader(examples, LoaderSettings(batch_size=2, resize=8), seed=0, ranks=ranks)
    assert next(loader.batches()).images.shape == (2, 3, 8, 8)


def test_files_that_change_meanwhile(tmp_path):
    root = make_set(tmp_path / "set", per_class=2) / "train"
    images = list_images(root)
    (root / "ant" / "0.jpg").write_bytes(b"other")
    with pytest.raises(DataError, match="when it was listed"):
        pack(images, tmp_path / "out", plan(images))
    (root / "ant" / "0.jpg").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        pack(images, tmp_path / "out", plan(images), skip_bad=True)
    with pytest.raises(UsageError, match="workers -1: must be 1 or more"):
        pack(images, tmp_path / "new", plan(images), workers=-1)
    assert not (tmp_path / "new").exists()


def test_no_label_is_left_without_a_word(fracgen, tmp_path):
    make_set(tmp_path / "set", per_class=3)
    for number in range(3):
        (tmp_path / "set" / "train" / "cat" / f"{number}.jpg").write_bytes(b"")
    code, _, err = fracgen("pack", "set", "--split", "train", "--skip-bad")
    assert code == 0 and "every image of cat was left out" in err
    assert load_manifest(tmp_path / "set-shards" / "train").num_samples == 6
