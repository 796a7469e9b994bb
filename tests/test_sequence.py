"""Folders of shards and recipes as Python sequences."""

import json
import multiprocessing
import pickle
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_recipe, small_recipes
from PIL import Image

from fracgen.fractaldb import OFDB, FractalDB
from fracgen.onepfrac import OnePFrac
from fracgen.pack import pack, plan
from fracgen.photo.recipe import Photo
from fracgen.plain import draw_plain
from fracgen.rng import stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.imagefolder import list_images
from fracgen.shards.reader import open_shards, read_tar
from fracgen.shards.sequence import SampleSequence
from fracgen.style import fill_rate


def content(sample) -> tuple:
    return sample.index, sample.label, sample.image.tobytes(), sample.image.shape, sample.metadata


def same(samples, others) -> bool:
    return list(map(content, samples)) == list(map(content, others))


def read_one(shards: SampleSequence, number: int) -> tuple:
    return content(shards[number])


def check_sequence(samples: SampleSequence) -> None:
    """What Python's own sequences do."""
    whole = list(samples)
    assert len(samples) == len(whole) > 5 and isinstance(samples, Sequence)
    assert same([samples[number] for number in range(len(samples))], whole)
    assert same([samples[-1], samples[np.int64(2)], samples[-len(samples)]], [whole[-1], whole[2], whole[0]])
    for part in (slice(3, 5), slice(None, None, -2), slice(-3, None), slice(5, 2), slice(4, 10**9)):
        assert len(samples[part]) == len(whole[part]) and same(samples[part], whole[part])
    view = samples[1:][::2]
    assert same([view[1], view[-1], *view[1:3]], [whole[3], whole[1:][::2][-1], *whole[3:7:2]])
    assert same(samples.subset([4, -1, 4]), [whole[4], whole[-1], whole[4]]) and len(samples.subset([])) == 0
    assert same(reversed(samples), whole[::-1]) and len(random.sample(samples, 2)) == 2
    assert samples.labels.tolist() == [sample.label for sample in whole] and samples.labels.dtype == np.int64
    assert view.labels.tolist() == [sample.label for sample in view] and view.class_names == samples.class_names
    for number in (len(samples), -len(samples) - 1, 10**30):
        with pytest.raises(IndexError, match=f"^sample {number}: there are {len(samples)}$"):
            samples[number]
        with pytest.raises(IndexError):
            view[number]
    with pytest.raises(IndexError, match=f"^sample {len(samples)}: "):
        samples.subset([0, len(samples)])
    for number in ("0", 1.0, None, (0, 1), [0]):
        with pytest.raises(TypeError, match="integers or slices"):
            samples[number]
    for numbers in ([0.5], [[0]], [True], "ab"):
        with pytest.raises(TypeError, match="whole numbers"):
            samples.subset(numbers)
    assert same(pickle.loads(pickle.dumps(samples)), whole) and same(pickle.loads(pickle.dumps(view)), view)


def test_a_folder_is_a_sequence(folder):
    check_sequence(open_shards(folder))


@pytest.mark.parametrize("name", small_recipes())
def test_a_recipe_is_a_sequence(name):
    recipe = small_recipes()[name]
    check_sequence(recipe)
    assert same(recipe, recipe.render(range(len(recipe)))) and recipe[4].index == 4
    assert "\n" not in repr(recipe[1:]) and len(repr(recipe[1:])) < 200


@pytest.mark.parametrize("name", small_recipes())
def test_indices_may_be_numpys_and_must_be_whole(name):
    recipe = small_recipes()[name]
    for kind in (np.int64, np.uint8):
        samples = list(recipe.render(np.array([4, 5], kind)))
        assert same(samples, [recipe[4], recipe[5]])
        assert {type(number) for sample in samples for number in (sample.index, sample.label)} == {int}
        assert json.dumps([sample.metadata for sample in samples])
    for number in (1.0, 1.5, "1"):
        with pytest.raises(TypeError, match="integer"):
            list(recipe.render([number]))


@pytest.mark.parametrize("recipe", [OnePFrac(), FractalDB(), OFDB(), Photo()], ids=lambda recipe: recipe.NAME)
def test_an_unresolved_recipe_has_no_samples_yet(recipe):
    assert len(recipe) >= 1000 and len(recipe[:10]) == 10
    for read in (lambda: recipe[0], lambda: next(iter(recipe)), lambda: recipe[:2][0]):
        with pytest.raises(UsageError, match=r"call resolve\(\) first|has no photograph"):
            read()


# ---- masks drawn anew in each pass -----------------------------------------------------------------------------------

MASKED = ["1p-frac", "1p-frac, color", "fractaldb", "ofdb", "noise"]


@pytest.mark.parametrize("name", MASKED)
def test_redrawn_samples_differ_in_their_masks_alone(name):
    recipe = small_recipes()[name]
    passes = [list(recipe.redrawn(number)) for number in (0, 1, 2, 2**32 - 1)]
    assert same(passes[0], recipe) and same(recipe.redrawn(1), passes[1])
    for one, *others in zip(*passes, strict=True):
        assert len({sample.image.tobytes() for sample in (one, *others)}) == 4, "every pass has masks of its own"
        assert len({sample.metadata["mask_key"] for sample in (one, *others)}) == 4
        free = [
            {k: v for k, v in sample.metadata.items() if k not in ("mask_key", "fill_rate")}
            for sample in (one, *others)
        ]
        assert free == free[:1] * 4 and len({(sample.index, sample.label) for sample in (one, *others)}) == 1
    check_sequence(recipe.redrawn(3))
    assert same(recipe[2:5].redrawn(1), passes[1][2:5]) and same(recipe.redrawn(2).redrawn(1), passes[1])


def test_redrawn_masks_are_what_the_renderer_draws_with_their_key():
    recipe = small_recipe(min_fill=0.0, classes=3)
    for sample in recipe.redrawn(5):
        maps = np.reshape(sample.metadata["maps"], (-1, 2, 3))
        key = int(sample.metadata["mask_key"], 16)
        assert key == recipe.mask_key(sample.index, 5) == stream_key(recipe.seed, sample.index, "masks", 5)
        assert np.array_equal(sample.image, draw_plain(maps, recipe.base.p, recipe.style, key))
        assert sample.metadata["fill_rate"] == fill_rate(sample.image)


def test_redrawn_masks_are_pinned():
    assert f"{stream_key(3, 7, 'masks', 2):016x}" == "e913d85bbb54c265"


def test_what_is_kept_does_not_depend_on_the_pass():
    """Draws are judged by the masks of the data set, else classes would change from pass to pass."""
    recipe = small_recipe()
    recipe = replace(recipe, min_fill=float(np.median([sample.metadata["fill_rate"] for sample in recipe])))
    tries = [[sample.metadata["tries"] for sample in recipe.redrawn(number)] for number in range(3)]
    assert max(tries[0]) > 1 and tries[0] == tries[1] == tries[2]


def test_shared_masks_are_shared_in_each_pass():
    recipe = small_recipe(masks="shared")
    keys = [{sample.metadata["mask_key"] for sample in recipe.redrawn(number)[:4]} for number in range(3)]
    assert [len(key) for key in keys] == [1, 1, 1] and len(set.union(*keys)) == 3


@pytest.mark.parametrize(
    "samples",
    [small_recipe(patch="fill"), small_recipe(draw="point"), *(small_recipes()[n] for n in ("visualatom", "photo"))],
    ids=lambda recipe: recipe.title,
)
def test_what_has_no_random_masks_is_not_redrawn(samples):
    for refused in (samples, samples[2:]):
        with pytest.raises(UsageError, match="masks can"):
            refused.redrawn(1)


def test_passes_that_there_are_not(recipe, folder):
    for number in (-1, 2**32):
        with pytest.raises(UsageError, match=f"^pass {number}: must be 0 to"):
            recipe.redrawn(number)
    with pytest.raises(TypeError):
        recipe.redrawn(0.5)
    with pytest.raises(UsageError, match="of a recipe that draws random patches"):
        open_shards(folder).redrawn(1)


def test_by_index_is_what_the_recipe_renders(folder, recipe):
    shards = open_shards(folder)
    assert [sample.index for sample in shards] != list(range(24))
    assert same(shards.by_index(), recipe.render(range(24))) and content(shards.by_index()[7])[0] == 7


def test_packed_files_of_any_size_are_a_sequence(tmp_path):
    for number in range(8):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(image).save(place / f"{number}.png")
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"no image")
    images = list_images(tmp_path / "images")
    pack(images, tmp_path / "set", plan(images, num_shards=3), skip_bad=True)
    shards = open_shards(tmp_path / "set")
    check_sequence(shards)
    assert [sample.index for sample in shards.by_index()] == [1, 2, 3, 4, 5, 6, 7]
    assert shards.read_encoded(0).image_bytes.startswith(b"\x89PNG")


def test_views_and_order_open_no_tar(folder, monkeypatch):
    monkeypatch.setattr("fracgen.shards.tar.index_tar", None)
    shards = open_shards(folder)
    assert len(shards[3:9].subset([1])) == 1 and len(shards.by_index()) == 24
    with pytest.raises(TypeError):
        shards[0]


def test_encoded_samples_are_those_of_the_tar(folder):
    shards = open_shards(folder)
    expected = [raw for path in sorted(folder.glob("*.tar")) for raw in read_tar(path, "png")]
    assert [shards.read_encoded(number) for number in range(24)] == expected and len(expected) == 24
    assert shards.read_encoded(-1) == expected[-1]


def test_threads_share_a_folder(folder):
    shards, expected = open_shards(folder), list(map(content, open_shards(folder)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: read_one(shards, n % 24), range(240))) == expected * 10


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_folder(folder, method):
    """A folder that its parent has read from already."""
    shards = open_shards(folder)
    expected = list(map(content, shards))
    assert content(shards[5]) == expected[5]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(read_one, [shards] * 24, range(24))) == expected


def cut(data: bytes, place: int) -> bytes:
    return data[:place]


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def letter(data: bytes, place: int) -> bytes:
    return data[:place] + b"x" + data[place + 1 :]


@pytest.mark.parametrize("is_indexed", [False, True])
@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        (cut, "image", "KEY"),
        (flip, "image", "sample KEY: "),
        (letter, "label", "sample KEY: invalid literal"),
        (flip, "header", "no whole tar|changed while it was read|has no .cls"),
        (None, "image", "missing|No such file"),
    ],
)
def test_damage_is_one_line_with_file_and_key(folder, tmp_path, change, where, message, is_indexed):
    shutil.copytree(folder, tmp_path / "set")
    shards = open_shards(tmp_path / "set")
    tar = tmp_path / "set" / shards.manifest.shards[1].name
    number = shards.manifest.shards[0].samples + 2
    if is_indexed:
        assert content(shards[number]) == content(open_shards(folder)[number])
    index = open_shards(folder)._tars.index(1)
    places = {"image": index.image_starts[2] + 60, "label": index.starts[2] + 512, "header": index.starts[2] + 3}
    if change is None:
        tar.unlink()
    else:
        tar.write_bytes(change(tar.read_bytes(), int(places[where])))
    with pytest.raises(DataError, match=f"^{tar.name}: .*({message.replace('KEY', index.key(2))})") as caught:
        print(shards[number])
    assert "\n" not in str(caught.value)
    assert content(shards[0]) == content(open_shards(folder)[0]), "other tars are read"


def test_a_tar_with_other_samples_than_the_manifest_says(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    one, other = sorted((tmp_path / "set").glob("*.tar"))[:2]
    with other.open("rb") as file:
        one.write_bytes(file.read(int(open_shards(folder)._tars.index(1).starts[2])) + bytes(1024))
    with pytest.raises(DataError, match=r"000000\.tar: holds 2 samples, and the manifest says 5$"):
        open_shards(tmp_path / "set")[1]
