"""What is said of tars of another origin that are whole, but not as a reader needs them: the mend is named."""

import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from fracgen.shards.errors import BadImageError, DataError, FracgenError, UsageError
from fracgen.shards.images import decode_picture
from fracgen.shards.reader import open_shards, read_tar
from fracgen.shards.verify import verify_folder
from fracgen.train.config import load
from fracgen.train.data.opening import open_examples
from fracgen.train.pretrain import Pretraining


def write_tar(path, names):
    """A tar of these members: images, and labels 0 and 1."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            data = str(number % 2).encode() if name.endswith(".cls") else file.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def said_of(path):
    """The line that ends in reading all of a tar's samples."""
    with pytest.raises(FracgenError) as error:
        examples = open_examples(str(path), num_classes=2)
        for number in range(len(examples)):
            examples.open(number)
    return str(error.value)


@pytest.mark.parametrize("kinds", [("png", "cls"), ("cls", "png")])
def test_members_that_do_not_follow_each_other(tmp_path, kinds):
    path = write_tar(tmp_path / "x.tar", [f"{number}.{kind}" for kind in kinds for number in range(4)])
    said = said_of(path)
    assert "in two places" in said and "must follow each other" in said and "x.tar" in said and "\n" not in said


@pytest.mark.parametrize("count", [2, 7])
@pytest.mark.parametrize("name", ["sizes.json", "_info.json"])
def test_a_file_of_counts_that_is_not_right_is_named(tmp_path, count, name):
    path = write_tar(tmp_path / "x.tar", [f"{number}.{kind}" for number in range(4) for kind in ("cls", "png")])
    split = {"filenames": ["x.tar"], "shard_lengths": [count]}
    values = {"x.tar": count} if name == "sizes.json" else {"splits": {"train": split}}
    (tmp_path / name).write_text(json.dumps(values))
    assert re.search(rf"{name} says {count}, and x\.tar holds 4 samples: mend or remove {name}", said_of(path))


def test_a_pattern_that_the_shell_has_expanded(tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"b\.tar: a word too many; .*quote the pattern, .*\*\.tar'"):
        load(Pretraining, None, {"shards": str(tmp_path / "a.tar")}, [str(tmp_path / "b.tar")])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def test_git_lfs_pointers_are_known(folder, tmp_path):
    (tmp_path / "x.tar").write_bytes(POINTER)
    assert "git lfs pull" in said_of(tmp_path / "x.tar")
    with pytest.raises(DataError, match="git lfs pull"):
        list(read_tar(tmp_path / "x.tar", "png"))
    with pytest.raises(BadImageError, match="git lfs pull"):
        decode_picture(POINTER)
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "1p-frac-train-000002.tar").write_bytes(POINTER)
    assert any("git lfs pull" in problem for problem in verify_folder(open_shards(tmp_path / "set")))
    with pytest.raises(DataError, match=r"000002\.tar.*git lfs pull"):
        open_examples(str(tmp_path / "set"))
    (tmp_path / "set" / "dataset.json").write_bytes(POINTER)
    with pytest.raises(DataError, match="git lfs pull"):
        open_shards(tmp_path / "set")
