"""The one listing of class folders, for packing and training."""

import json

import numpy as np
import pytest
from PIL import Image

from fracgen.shards.errors import UsageError
from fracgen.shards.labels.imagefolder import find_split, find_splits, list_images
from fracgen.shards.labels.labelled_images import PACKED_EXTENSIONS


def draw(path, format=None):  # noqa: A002  # as Pillow calls it
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (10, 20, 30)).save(path, format)


@pytest.mark.parametrize("name", ["valid", "validation", "val", "Val"])
def test_a_split_has_several_names(tmp_path, name):
    draw(tmp_path / "train" / "a" / "1.png")
    draw(tmp_path / name / "a" / "1.png")
    assert find_split(tmp_path, "val") == find_split(tmp_path, "validation") == tmp_path / name
    assert find_splits(tmp_path) == {"train": tmp_path / "train", "val": tmp_path / name}
    with pytest.raises(UsageError, match="--split test: no folder"):
        find_split(tmp_path, "test")
    with pytest.raises(UsageError, match="holds splits; give --split"):
        list_images(tmp_path)
    assert find_splits(tmp_path / "train") == find_splits(tmp_path / "nothing") == {}


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("valid", "validation"):
        draw(tmp_path / name / "a" / "1.png")
    with pytest.raises(UsageError, match="holds valid and validation"):
        find_splits(tmp_path)
    with pytest.raises(UsageError, match="holds valid and validation"):
        find_split(tmp_path, "val")
    assert find_split(tmp_path, "valid") == tmp_path / "valid"


def test_every_extension_of_a_jpeg_is_one(tmp_path):
    for name in ("a/1.jpg", "a/2.JPEG", "a/3.jfif", "a/4.jpe"):
        draw(tmp_path / name, "JPEG")
    images = list_images(tmp_path)
    assert len(images) == 4 and images.extension == "jpg" and images.passed_over() == []


def test_what_is_no_image_is_counted_and_told(tmp_path):
    for name in ("a/1.png", "a/2.bmp", "a/b/3.gif", "b/4.png"):
        draw(tmp_path / name)
    for name in ("a/5", "b/notes.txt", "b/more.TXT", "classes.csv"):
        (tmp_path / name).write_text("x")
    images, packed = list_images(tmp_path), list_images(tmp_path, extensions=PACKED_EXTENSIONS)
    assert images.others == {".csv": 1, ".gif": 1, ".txt": 2, "no extension": 1} and len(images) == 3
    note = "1 .csv, 1 .gif, 2 .txt, 1 no extension: no images by their extension, passed over"
    assert images.passed_over() == [note]
    assert len(packed) == 2 and packed.passed_over()[0] == note
    assert packed.passed_over()[1].startswith("1 .bmp: webdataset decodes no BMP")


@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", ".hidden"])
def test_what_other_systems_leave_is_not_there(tmp_path, junk):
    draw(tmp_path / "a" / "1.png")
    before = list_images(tmp_path)
    draw(tmp_path / junk / "a" / "._1.png")
    draw(tmp_path / "a" / junk / "1.png" / "SYNOPHOTO_THUMB_M.png")
    for name in ("Thumbs.db", "a/desktop.ini", "a/.DS_Store", "a/._1.png"):
        (tmp_path / name).write_text("x")
    images = list_images(tmp_path)
    assert (images.sha256, images.class_names, images.others) == (before.sha256, ("a",), {})


def test_classes_and_files_are_in_the_order_of_code_points(tmp_path):
    names = ["10/a.png", "2/10.png", "2/9.png", "Cat/x/y.png", "Cat/x.png", "apple/1.png"]
    for name in names:
        draw(tmp_path / name)
    images = list_images(tmp_path)
    assert images.class_names == ("10", "2", "Cat", "apple")
    assert [images.name(number) for number in range(6)] == sorted(names)
    assert images.labels.tolist() == [images.label(number) for number in range(6)] == [0, 1, 1, 2, 2, 3]
    assert images.labels.dtype == np.int64 and json.dumps(images.sizes.tolist())


def test_a_link_to_a_folder_above_is_followed_once(tmp_path):
    draw(tmp_path / "a" / "deep" / "1.png")
    (tmp_path / "a" / "deep" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    images = list_images(tmp_path)
    assert len(images) == 1 and images.others == {"link to a folder above": 2}
    assert images.passed_over() == ["2 link to a folder above: what lies there is listed already, passed over"]


def test_folders_without_end_are_refused(tmp_path):
    draw(tmp_path.joinpath("set", "a", *"d" * 120, "1.png"))
    with pytest.raises(UsageError, match=r"set/a.*: folders nested more than 100 deep"):
        list_images(tmp_path / "set")
