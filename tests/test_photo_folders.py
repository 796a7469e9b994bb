"""Folders of a photograph's warps: the same bytes however made, gone on with elsewhere, previewed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import contents
from test_photo import RGB, card, photo, save

from fracgen import render_shards as generate
from fracgen.photo.photographs import Photographs, load_photographs
from fracgen.photo.recipe import Photo
from fracgen.registry import from_dict, inputs, load_recipe
from fracgen.render_shards import plan, write_shards
from fracgen.rerender import differing_samples
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.plan import read_plan
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import verify_folder


@pytest.mark.parametrize("warp", ["perspective", "crops"])
def test_any_number_of_workers_makes_the_same_bytes(tmp_path, warp):
    recipe = photo(warp=warp, look="rgb", classes=30)
    for workers in (1, 2):
        write_shards(recipe, tmp_path / str(workers), layout=plan(recipe, num_shards=5), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    shards = open_shards(tmp_path / "1")
    assert verify_folder(shards) == [] and differing_samples(shards, 30) == []
    versions = shards.manifest.versions
    assert any(name.startswith("opencv") for name in versions), "edges differ between builds"
    assert not any(name.startswith("opencv") for name in generate.versions())


def test_the_data_card_says_that_the_photographs_are_in_the_folder(tmp_path):
    recipe = photo()
    write_shards(recipe, tmp_path / "set")
    text = (tmp_path / "set" / "README.md").read_text()
    assert "made from photographs by fracgen" in text and "`photographs.zip` holds the photographs themselves" in text
    head = text.split("---")[1]
    assert "synthetic" not in head and "license: unknown\n" in head and "- webdataset\n" in head
    assert "made from formulas" not in text


def test_opencvs_threads_have_no_say():
    code = (
        "import cv2, hashlib, sys; cv2.setNumThreads(int(sys.argv[1]));"
        "from skimage.data import astronaut; import fracgen;"
        "photographs = fracgen.Photographs((astronaut(),));"
        "digest = hashlib.sha256();\n"
        "for warp in ('perspective', 'elastic', 'crops'):\n"
        "    recipe = fracgen.Photo(warp=warp, photographs=photographs, classes=20).resolve()[0]\n"
        "    for sample in recipe.render(range(4)): digest.update(sample.image)\n"
        "print(digest.hexdigest(), recipe.high)"
    )
    shown = [
        subprocess.run([sys.executable, "-c", code, threads], capture_output=True, text=True, check=True).stdout
        for threads in ("1", "4")
    ]
    assert shown[0] == shown[1] and len(shown[0]) > 64


def test_a_folder_goes_on_elsewhere_without_the_photograph(tmp_path, monkeypatch):
    path = save(tmp_path / "cat.png", RGB)
    recipe = Photo(classes=12, size=48, photographs=load_photographs([path])[0]).resolve()[0]
    write_shards(recipe, tmp_path / "whole", layout=plan(recipe, num_shards=4))
    work = generate.plan_of(recipe, plan(recipe, num_shards=4))
    with FolderWriter(tmp_path / "set", work, inputs=inputs(recipe)) as writer:
        for shard in (0, 2):
            generate.render_shard(tmp_path / "set", shard, writer.token)
    path.unlink()
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "set", tmp_path / "elsewhere" / "moved")
    again = from_dict(read_plan(moved).recipe, moved)
    assert again == recipe
    assert write_shards(again, moved, layout=plan(again, num_shards=4)).new_samples == 6
    assert contents(moved) == contents(tmp_path / "whole")
    shards = open_shards(moved)
    assert verify_folder(shards) == [] and differing_samples(shards, 12) == []
    (moved / "photographs.zip").write_bytes(Photographs((card(64, 80),)).to_bytes())
    assert "photographs.zip: differs" in verify_folder(shards)[0]
    monkeypatch.setattr(Photographs, "from_bytes", lambda data: pytest.fail("decoded before its hash is compared"))
    assert "is not the file that the recipe names" in differing_samples(shards, 12)[0]


def test_an_unfinished_folder_is_a_recipe_of_its_own(tmp_path):
    recipe = photo(classes=12, high=(90.0,))
    layout = plan(recipe, num_shards=4)
    write_shards(recipe, tmp_path / "whole", layout=layout)
    with FolderWriter(tmp_path / "set", generate.plan_of(recipe, layout), inputs=inputs(recipe)) as writer:
        generate.render_shard(tmp_path / "set", 1, writer.token)
    again = load_recipe(tmp_path / "set", name="photo").resolve()[0]
    assert again == recipe and again.derived == ("blur", "low")
    assert write_shards(again, tmp_path / "set", layout=layout).new_samples == 9
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    (tmp_path / "empty" / ".partial").mkdir(parents=True)
    with pytest.raises(DataError, match="unfinished; run again what began it"):
        load_recipe(tmp_path / "empty")


def test_a_missing_opencv_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"pip install 'fracgen\[photo\]'"):
        photo()


def test_preview():
    recipe = photo(classes=30)
    columns = list(recipe.preview())
    assert [len(column) for column in columns] == [2] * 6
    assert [caption for caption, _ in columns[0]] == ["photograph 0", "its look: canny"]
    assert columns[0][0][1].shape == (48, 48, 3) and np.array_equal(columns[0][1][1], recipe.base())
    assert columns[-1][0][0] == "class 29" and columns[-1][1][1].image.any()
    crops = list(photo(warp="crops", look="rgb", classes=30).preview())
    assert len(crops) == 6 and crops[1][1][0].startswith("class ")
    gray = list(photo(look="gray", strength=0.0, classes=1).preview())
    assert len(gray) == 2 and not gray[1][1][1].any(), "the difference of the same"
    two = photo(photographs=Photographs((card(), card(90, 90))), classes=3)
    assert [column[0][0] for column in two.preview()].count("photograph 1") == 1
