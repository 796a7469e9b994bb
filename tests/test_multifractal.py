import hashlib
import json
import math
import shutil
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracgen import multifractal_kernels as kernels
from fracgen import picture_kernels
from fracgen.cli.app import run
from fracgen.export import to_image_folder, to_parquet
from fracgen.multifractal import MultiFractal
from fracgen.multifractal_scenes import Painter, running_sums
from fracgen.multifractal_systems import jitter_system, sample_system, sigma_range
from fracgen.plain_multifractal import plain_rgb, plain_scene
from fracgen.registry import RECIPES, load_recipe, recipe_hash
from fracgen.render_shards import write_shards
from fracgen.rng import generator
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.reader import EncodedSample, decode_sample, open_shards

EXAMPLE = Path(__file__).parents[1] / "examples" / "multifractal.yaml"
SMALL = {"classes": 6, "instances": 4, "seed": 7, "size": 40, "points": 600}
compositions = pytest.mark.parametrize("composition", ["multi", "single"])
JITTERS = ["basic", "fractaldb-1", "fractaldb-2", "fractaldb-3", "fractaldb-4", "svd", "sval"]


def case(golden_family, name):
    values = json.loads((golden_family / f"multifractal_{name}.json").read_text())
    return values, np.asarray(Image.open(golden_family / f"multifractal_{name}.png"))


def legacy(seed, count):
    """The stream of numba's generator is that of numpy's legacy one."""
    return np.random.RandomState(seed).random_sample(count)


def count_points(maps, choices, size, mask=16):
    """Of an orbit that is traced beside another, on either side of it."""
    sides, rows = [], maps.reshape(-1, 6)
    other, other_choices = rows[::-1].copy(), choices[::-1].copy()
    for side in range(2):
        xs, ys, extents = np.empty((2, len(choices))), np.empty((2, len(choices))), np.empty((2, 4))
        systems, steps = (
            [(rows, other), (other, rows)][side],
            [(choices, other_choices), (other_choices, choices)][side],
        )
        assert kernels.trace_pair(*systems, *steps, xs, ys, extents)
        sides.append((xs[side], ys[side], extents[side]))
    assert all(map(np.array_equal, *sides))
    xs, ys, extent = sides[0]
    places, points = np.empty(len(choices), np.uint32), np.empty(size * size + 1, np.uint32)
    counts = np.empty((size, size), np.uint32)
    kernels.locate(xs, ys, extent, size, places)
    return kernels.count(places, mask, points, counts), counts, xs, ys


def painted(counts, greatest, colour, flips=0):
    image = np.empty((*counts.shape, 3), np.uint8)
    kernels.paint(counts, greatest, np.array(colour, float), flips, image)
    return image


def test_golden_system_orbit_and_colours(golden_family):
    values, expected = case(golden_family, "1_points")
    maps, num_points = np.array(values["system"]), values["T"]
    sampler = values["sampler"]
    rng = np.random.default_rng(sampler["default_rng_seed"])
    assert np.array_equal(sample_system(sampler["n"], rng.random), maps)
    choices = np.empty(num_points, np.uint8)
    kernels.choose(running_sums(maps), legacy(values["mt_seed"], num_points), choices)
    greatest, counts, xs, ys = count_points(maps, choices, values["size"])
    assert np.array_equal(np.stack([xs, ys], 1)[:3], values["first_points"])
    assert [xs[-1], ys[-1]] == values["last_point"] and np.count_nonzero(counts) == values["lit"]
    colour = values["hue_shift"], values["sat"], values["val"]
    assert np.array_equal(painted(counts, greatest, colour), expected)


def test_golden_background(golden_family):
    values, expected = case(golden_family, "3_background")
    side = 2 ** values["n"] + 1
    field, image = np.empty((side, side)), np.empty_like(expected)
    kernels.diamond_square(values["decay"], legacy(values["mt_seed"], side * side), field)
    inside = field[: values["size"], : values["size"]]
    assert field[0, :8].tolist() == values["field_first_row"]
    assert (inside.min(), inside.max()) == (values["field_min"], values["field_max"])
    names = "hue_scale", "hue_shift", "sat_scale", "sat_shift", "val_scale", "val_shift"
    kernels.paint_background(field, np.array([values[name] for name in names]), image)
    assert np.array_equal(image, expected)


def test_golden_composition(golden_family):
    values, expected = case(golden_family, "4_multi")
    image = np.array(Image.open(golden_family / values["background"]))
    for number, foreground in enumerate(values["foregrounds"]):
        maps = np.array(foreground["system"])
        assert np.array_equal(sample_system(len(maps), np.random.default_rng(number).random), maps)
    for item in values["objects"]:
        foreground = values["foregrounds"][item["foreground"]]
        shares = [share for _, _, share in foreground["gray"]]
        greatest = math.lcm(*(Fraction(share).limit_denominator(5000).denominator for share in shares))
        counts = np.zeros((values["foreground_size"],) * 2, np.uint32)
        for row, column, share in foreground["gray"]:
            counts[row, column] = round(share * greatest)
        flips = item["transpose"] + 2 * item["flip_rows"] + 4 * item["flip_columns"]
        whole = painted(counts, greatest, (item["hue_shift"], item["sat"], item["val"]), flips)
        square = np.empty((item["side"], item["side"], 3), np.uint8)
        picture_kernels.resize(whole, square)
        picture_kernels.paste(square, item["y"], item["x"], image)
    assert values["blur_sigma"] is None and np.array_equal(image, expected)


def rgb_of(*hsv):
    packed = int(picture_kernels.to_rgb(*map(np.int32, hsv)))
    return packed & 255, packed >> 8 & 255, packed >> 16


def test_opencv_gives_the_same_pixels():
    """Its colours in rows of whole 32 columns, which it truncates; its sizes; its blur."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    hsv = rng.integers(0, 256, (500, 64, 3), dtype=np.uint8)
    rgb = np.array([[rgb_of(*pixel) for pixel in row] for row in hsv.tolist()], np.uint8)
    reference = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert np.abs(reference.astype(int) - rgb).max() <= 1, "other machines than AVX2's round"
    for _ in range(200):
        length, side = (int(number) for number in rng.integers(2, 140, 2))
        source = rng.integers(0, 256, (length, length, 3), dtype=np.uint8)
        target = np.empty((side, side, 3), np.uint8)
        picture_kernels.resize(source, target)
        assert np.array_equal(target, cv2.resize(source, (side, side))), (length, side)
        sigma = rng.uniform(0.5, 1)
        share = math.exp(-1 / (2 * sigma**2))
        expected = cv2.GaussianBlur(source, (3, 3), sigma)
        picture_kernels.blur(round(256 * share / (1 + 2 * share)), np.empty((length, 3 * length), np.float32), source)
        assert np.array_equal(source, expected)


def test_colours_are_rounded_once():
    """1 - S f in one rounding to float32, as a fused operation has it, for every hue and saturation."""
    hues = np.arange(256).astype(np.float32) * np.float32(6 / 180)
    parts = hues - np.floor(hues)
    shares = np.arange(256).astype(np.float32) * np.float32(1 / 255)
    for part in np.unique([parts, np.float32(1) - parts]):
        once = (1 - shares.astype(np.longdouble) * np.longdouble(part)).astype(np.float32)
        assert np.array_equal((1 - shares.astype(np.float64) * np.float64(part)).astype(np.float32), once)
    for hue in range(256):
        for saturation, value in ((0, 0), (0, 255), (255, 255), (77, 200), (hue, 255 - hue)):
            assert rgb_of(hue, saturation, value) == plain_rgb(hue, saturation, value)


@compositions
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 33, "draw": "point"},
        {"background": "black", "blur": 1.0},
        {"size": 8, "points": 1, "min_side": 0.01, "max_side": 2.0},
        {"max_fractals": 20, "min_fractals": 20, "min_extent": 0.1, "max_shift": 1.0, "blur": 0.0},
        {"jitter": "svd", "min_maps": 8, "max_maps": 8, "systems_per_class": 3},
    ],
)
def test_every_pixel_is_the_plain_programs(composition, changes):
    recipe = MultiFractal(**{**SMALL, "composition": composition, **changes})
    for sample in recipe.render(range(0, len(recipe), 5)):
        assert np.array_equal(sample.image, plain_scene(sample.metadata, size=recipe.size, points=recipe.points))


@settings(max_examples=25, deadline=None)
@given(
    composition=st.sampled_from(["multi", "single"]),
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(8, 60),
    points=st.integers(1, 900),
    maps=st.integers(2, 8),
    jitter=st.sampled_from(["none", *JITTERS]),
    side=st.floats(0.001, 2),
    extent=st.floats(2.5, 10),  # with less, of two points none may be seen
    blur=st.floats(0.1, 10),
)
def test_any_values_are_the_plain_programs(composition, seed, size, points, maps, jitter, side, extent, blur):
    recipe = MultiFractal(
        composition=composition,
        classes=3,
        instances=2,
        seed=seed,
        size=size,
        points=points,
        min_maps=2,
        max_maps=maps,
        jitter=jitter,
        min_side=side,
        max_side=side,
        min_extent=extent,
        max_extent=extent,
        blur=1.0,
        min_blur_sigma=blur,
        max_blur_sigma=blur,
    )
    for sample in recipe.render([1, 4]):
        assert sample.image.shape == (size, size, 3)
        assert np.array_equal(sample.image, plain_scene(sample.metadata, size=size, points=points))


@pytest.mark.parametrize("num_maps", [2, 3, 4, 8])
def test_systems_have_the_published_law(num_maps):
    unit, sigmas = np.random.default_rng(5).random, []
    for _ in range(300):
        maps = sample_system(num_maps, unit)
        values = np.linalg.svd(maps[:, :, :2], compute_uv=False)
        assert values.max() <= 1 + 1e-12 and np.abs(maps[:, :, 2]).max() <= 1
        sigmas.append(float((values @ (1, 2)).sum()))
    low, high = sigma_range(num_maps)
    assert low - 1e-9 <= min(sigmas) and max(sigmas) <= high + 1e-9
    assert abs(np.mean(sigmas) - (low + high) / 2) < 0.06


@pytest.mark.parametrize("kind", JITTERS)
def test_jitter_changes_what_it_says(kind):
    unit, changed = np.random.default_rng(3).random, 0
    for _ in range(200):
        maps = sample_system(3, unit)
        kept = maps.copy()
        other = jitter_system(maps, kind, unit)
        assert np.array_equal(maps, kept), "the system itself is left alone"
        if other is maps:
            continue
        changed += 1
        values = np.linalg.svd(other[:, :, :2], compute_uv=False)
        assert values.max() <= 1
        differs = other != maps
        if kind.startswith("fractaldb"):
            k, numbers = int(kind[-1]), differs.any(axis=0)
            levels = 1 + k / 5 * np.array([-1, -0.5, 0, 0.5, 1])
            assert numbers.sum() <= 1
            if numbers.any():
                factors = (other / maps)[:, numbers].ravel()
                assert np.allclose(factors, factors[0]) and np.isclose(levels, factors[0]).any()
            continue
        (j,) = np.flatnonzero(differs.any(axis=(1, 2)))
        before = np.linalg.svd(maps[j, :, :2], compute_uv=False)
        if kind == "basic":
            factors = other[j] / maps[j]
            assert differs[j].all() and factors.min() >= 0.8 and factors.max() <= 1.1
        elif kind == "svd":
            assert np.allclose(values[j], before)
            moved = np.abs(other[j, :, 2] - maps[j, :, 2])
            assert moved.max() <= 0.5 and (moved.max() == 0) == differs[j, :, :2].any()
        else:
            low, high = sigma_range(3)
            assert low - 1e-9 <= float((values @ (1, 2)).sum()) <= high + 1e-9
            assert np.allclose(other[j, :, :2] / maps[j, :, :2], values[j, 0] / before[0])
    assert changed > 100


def test_jitter_follows_no_library_of_linear_algebra(monkeypatch):
    """LAPACK's last bits differ between processors, and an image shall not."""

    def refuse(*_, **__):
        raise AssertionError("pixels follow from it")

    maps = sample_system(3, np.random.default_rng(3).random)
    monkeypatch.setattr(np.linalg, "svd", refuse)
    for kind in JITTERS:
        jitter_system(maps, kind, np.random.default_rng(3).random)
    numbers = iter([0.0, 0.75])  # the first map, turned by a quarter radian from the left
    turned = jitter_system(maps, "svd", lambda: next(numbers))
    cos, sin = math.cos(0.25), math.sin(0.25)
    (a, b, _), (c, d, _) = maps[0].tolist()
    by_hand = [[cos * a + -sin * c, cos * b + -sin * d], [sin * a + cos * c, sin * b + cos * d]]
    assert turned[0, :, :2].tolist() == by_hand


def test_defaults_are_the_published_set():
    recipe = MultiFractal()
    assert (len(recipe), recipe.num_classes, recipe.image_shape) == (1_000_000, 1000, (224, 224, 3))
    assert (recipe.points, recipe.min_maps, recipe.max_maps, recipe.num_systems) == (100_000, 2, 4, 1000)
    assert (recipe.min_fractals, recipe.max_fractals, recipe.min_side, recipe.max_side) == (1, 5, 0.15, 0.6)
    assert (recipe.max_shift, recipe.min_extent, recipe.max_extent) == (0.2, 0.5, 2.0)
    assert (recipe.blur, recipe.min_blur_sigma, recipe.max_blur_sigma, recipe.jitter) == (0.5, 0.5, 1.0, "published")
    assert RECIPES["multifractal"] is MultiFractal and recipe.multi_label
    assert not MultiFractal(composition="single").multi_label


@compositions
def test_images(composition):
    """Each depends on its index only; none is another; labels are those of its fractals."""
    recipe = MultiFractal(**SMALL, composition=composition, systems_per_class=2)
    alone = {index: recipe[index] for index in range(len(recipe))}
    for index, sample in zip([9, 3, 9], recipe.render([9, 3, 9]), strict=True):
        assert np.array_equal(sample.image, alone[index].image) and sample.metadata == alone[index].metadata
    assert len({sample.image.tobytes() for sample in alone.values()}) == len(recipe)
    for index, sample in alone.items():
        systems = sample.metadata["systems"]
        assert sample.label == index // 4 and systems[-1] == 2 * sample.label + index % 4 // 2
        labels = tuple(sorted({system // 2 for system in systems}))
        assert sample.labels == (labels if composition == "multi" else ()) and sample.label in labels
        assert all(1 <= mask <= 511 for mask in sample.metadata["masks"])
        for system, maps in zip(systems, sample.metadata["maps"], strict=True):
            same = np.array_equal(recipe.system(system).ravel(), maps)
            assert same or composition == "single", "no jitter where there are several, as published"
    counts = [len(sample.metadata["systems"]) for sample in alone.values()]
    assert set(counts) == ({1, 2, 3, 4, 5} if composition == "multi" else {1})


def test_draws_are_uniform():
    """Of 2,000 scenes: the number of fractals, other classes, sides and places."""
    recipe = MultiFractal(seed=1)
    scenes = [recipe.scene(index) for index in range(0, 1_000_000, 500)]
    numbers = np.bincount([len(scene.fractals) for scene in scenes], minlength=6)
    assert numbers[0] == 0 and numbers[1:].min() > 320 and numbers[1:].max() < 480
    fractals = [fractal for scene in scenes for fractal in scene.fractals]
    sides = np.array([fractal.place[2] for fractal in fractals]) / 224
    assert abs(sides.mean() - 0.375) < 0.01 and sides.min() > 0.14 and sides.max() < 0.6
    for axis in range(2):
        centres = np.array([fractal.place[axis] + fractal.place[2] // 2 for fractal in fractals])
        assert centres.min() == 0 and centres.max() == 223 and abs(centres.mean() - 111.5) < 4
    others = [fractal.system for scene in scenes for fractal in scene.fractals[:-1]]
    assert abs(np.mean(others) - 499.5) < 15 and min(others) < 10 and max(others) > 990
    assert 0.46 < np.mean([scene.blur_sigma > 0 for scene in scenes]) < 0.54


def test_pixels_are_pinned():
    pins = {
        composition: hashlib.sha256(MultiFractal(**SMALL, composition=composition)[9].image).hexdigest()[:8]
        for composition in ("multi", "single")
    }
    assert pins == {"multi": "50b9b0fa", "single": "5af79f4c"}


def test_images_of_nothing_are_counted_and_bounded():
    recipe = MultiFractal(**{**SMALL, "points": 2}, composition="single", max_shift=10.0)
    rejected = []
    for index in range(len(recipe)):
        try:
            rejected.append(recipe[index].rejected.get("empty", 0))
        except DataError as error:
            assert "shows nothing in 100 tries" in str(error)
    assert max(rejected) > 0
    assert Painter(8, 10).paint(replace(recipe.scene(0), fractals=())) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"composition": "both"}, "composition"),
        ({"min_maps": 4, "max_maps": 3}, "max_maps 3: must be at least min_maps, 4"),
        ({"min_fractals": 6}, "max_fractals 5: must be at least min_fractals, 6"),
        ({"min_side": 0.7}, "max_side 0.6"),
        ({"min_extent": 3.0}, "max_extent 2.0"),
        ({"min_blur_sigma": 3.0}, "max_blur_sigma 1.0"),
        ({"blur": 1.1}, "blur 1.1"),
        ({"jitter": "fractaldb-5"}, "jitter"),
        ({"size": 7}, "size 7"),
        ({"systems_per_class": 1001}, "systems_per_class 1001: with 1000 classes at most 1000"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        MultiFractal(**changes)


@compositions
def test_a_folder(tmp_path, composition):
    recipe = MultiFractal(**SMALL, composition=composition)
    write_shards(recipe, tmp_path / "set", workers=2)
    shards = open_shards(tmp_path / "set")
    assert shards.multi_label == recipe.multi_label
    for sample, again in zip(shards.by_index(), recipe, strict=True):
        assert (sample.label, sample.labels) == (again.label, again.labels)
        assert np.array_equal(sample.image, again.image) and sample.metadata == again.metadata
    assert recipe_hash(load_recipe(tmp_path / "set")) == recipe_hash(recipe)


def test_the_example_is_the_defaults():
    values = yaml.safe_load(EXAMPLE.read_text())
    assert load_recipe(EXAMPLE) == MultiFractal()
    assert set(values) - {"recipe"} == {field.name for field in fields(MultiFractal)}


def test_systems_are_those_of_their_stream():
    unit = generator(7, 3, "system").random
    num_maps = 2 + int(unit() * 3)
    assert np.array_equal(MultiFractal(**SMALL).system(3), sample_system(num_maps, unit))


@pytest.fixture(scope="module")
def multi_folder(tmp_path_factory):
    """A finished folder of images with several labels; not to be changed."""
    path = tmp_path_factory.mktemp("multi") / "set"
    write_shards(MultiFractal(**SMALL), path)
    return path


def test_stock_readers(multi_folder):
    webdataset, datasets = pytest.importorskip("webdataset"), pytest.importorskip("datasets")
    timm = pytest.importorskip("timm")
    recipe, manifest = MultiFractal(**SMALL), open_shards(multi_folder).manifest
    tars = [str(multi_folder / shard.name) for shard in manifest.shards]
    rows = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("__key__", "cls", "json")
    for key, label, values in rows:
        assert (label, tuple(values["labels"])) == (recipe[int(key)].label, recipe[int(key)].labels)
    rows = datasets.load_dataset(str(multi_folder), split="train", streaming=True)
    assert all(tuple(row["json"]["labels"]) == recipe[int(row["__key__"])].labels for row in rows)
    rows = timm.data.create_dataset("wds/x", str(multi_folder), split="train", batch_size=4)
    assert sorted(int(label) for _, label in rows) == sorted(sample.label for sample in recipe)
    card = (multi_folder / "README.md").read_text()
    assert "- multi-label-image-classification" in card and "`labels`, all of them" in card
    assert "the published distribution, not the published images" in card


def test_export(multi_folder, tmp_path):
    parquet, datasets = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("datasets")
    recipe = MultiFractal(**SMALL)
    (name,) = to_parquet(multi_folder, tmp_path / "parquet")
    table = parquet.read_table(tmp_path / "parquet" / name)
    for key, labels in zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True):
        assert tuple(labels) == recipe[int(key)].labels
    assert "labels" not in table["metadata"].to_pylist()[0]
    rows = datasets.load_dataset(str(tmp_path / "parquet"), split="train")
    assert rows.features["labels"].feature.names == list(recipe.class_names)
    with pytest.raises(UsageError, match=r"several labels, a folder a class holds one; give parquet"):
        to_image_folder(multi_folder, tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[0,9]", r"labels \[0, 9\]: must ascend, each 0 to 5"),
        ("[2,2]", "must ascend"),
        ("[5]", "label 1: not among its labels"),
        ("[]", r"labels \[\]: must be a list of the numbers"),
        ("[1.0]", "must be a list"),
        ('"1"', "must be a list"),
        (None, "labels None"),
    ],
)
def test_wrong_labels_are_found(labels, message, multi_folder):
    manifest = open_shards(multi_folder).manifest
    text = '{"formula":"x"}' if labels is None else f'{{"labels":{labels}}}'
    members = {"cls": b"1", "json": text.encode(), "png": b""}
    raw = EncodedSample(key="000004", label=1, metadata=json.loads(text), image_bytes=b"", members=members)
    with pytest.raises(DataError, match=message):
        decode_sample(raw, manifest)


def test_verify_and_inspect(multi_folder, tmp_path, capsys):
    assert run(["verify", str(multi_folder), "--render"]) == 0 and run(["inspect", str(multi_folder)]) == 0
    assert "several an image" in capsys.readouterr().out
    damaged = tmp_path / "set"
    shutil.copytree(multi_folder, damaged)
    path = damaged / open_shards(damaged).manifest.shards[0].name
    data = path.read_bytes()
    start = data.index(b'{"labels":[') + len(b'{"labels":[')
    path.write_bytes(data[:start] + b"9" + data[start + 1 :])
    assert run(["verify", str(damaged)]) == 1
    assert "must ascend, each 0 to 5" in capsys.readouterr().err
