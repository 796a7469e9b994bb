"""`fracgen score`: known dimensions, planted duplicates, classes that are told apart or not, what can go wrong."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_recipe, small_recipes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from servers import faulty_server
from test_examples import write_tar

from fracgen.cli.app import run
from fracgen.cli.score import comparison_of, print_score
from fracgen.noise import Noise
from fracgen.score import ScoreSettings, score
from fracgen.score_figure import draw_score
from fracgen.score_images import BLACK, WHITE, box_sizes, find_ground, measure_boxes, measure_image
from fracgen.score_kernels import box_moments
from fracgen.score_sample import Comparison, ImageSource, Viewer, choose_sample
from fracgen.separability import nearest_correlations, separability, squared_distances
from fracgen.shards.errors import UsageError

SMALL = ScoreSettings(images=64, perturbations=0)


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def fracgen(capsys, tmp_path, monkeypatch):
    """Run a command in a folder of its own; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return call


def source_of(images, labels) -> ImageSource:
    return ImageSource(np.asarray(labels), lambda numbers: (images[number] for number in numbers))


def dimension(lit):
    return measure_boxes(lit, box_sizes(min(lit.shape)))[0]


# ---- single images ---------------------------------------------------------------------------------------------------


def test_known_dimensions():
    line, point = np.zeros((2, 256, 256), bool)
    line[:, 77], point[30, 200] = True, True
    places = np.arange(512)
    triangle = (places[:, None] & places) == 0  # Pascal's triangle modulo 2
    carpet = np.ones((243, 243), bool)
    for side in (3, 9, 27, 81, 243):
        third = np.arange(243) % side // (side // 3)
        carpet &= (third[:, None] != 1) | (third != 1)
    assert dimension(np.ones((256, 256), bool)) == pytest.approx(2)
    assert dimension(line) == pytest.approx(1)
    assert dimension(point) == pytest.approx(0)
    assert dimension(triangle) == pytest.approx(np.log2(3), abs=0.01)
    assert dimension(carpet) == pytest.approx(np.log(8) / np.log(3), abs=0.06), "boxes of 2^k, holes of 3^k"


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_boxes_are_counted_as_by_hand(height, width, seed, fill):
    lit = np.random.default_rng(seed).random((height, width)) < fill
    boxes = tuple(side for side in (4, 2, 1) if side <= min(height, width))
    slope, lacunarity = measure_boxes(lit, boxes)
    if not lit.any():
        assert np.isnan([slope, *lacunarity]).all()
        return
    counts = []
    for side, gliding in zip(boxes, lacunarity, strict=True):
        places = list(zip(*np.nonzero(lit), strict=True))
        offsets = np.ndindex(side, side)
        counts.append(min(len({((y + up) // side, (x + left) // side) for y, x in places}) for up, left in offsets))
        masses = [lit[y : y + side, x : x + side].sum() for y, x in np.ndindex(height - side + 1, width - side + 1)]
        assert gliding == pytest.approx(np.mean(np.square(masses)) / np.mean(masses) ** 2, nan_ok=True)
    if len(boxes) > 1:
        assert slope == pytest.approx(np.polyfit(-np.log(boxes), np.log(counts), 1)[0], abs=1e-9)
    else:
        assert np.isnan(slope)


def test_lacunarity_is_one_without_gaps_and_grows_with_them():
    even, clumped = np.zeros((2, 64, 64), bool)
    even[::2, ::2] = True
    clumped[:32, :32] = True
    lacunarity = [measure_boxes(lit, (8,))[1][0] for lit in (np.ones((64, 64), bool), even, clumped)]
    assert lacunarity[:2] == [1, 1] and lacunarity[2] > 2


def test_lacunarity_of_a_large_image():
    """The squares of all boxes of 1024 x 1024 pixels in 5300 x 5300 lit ones sum up to more than 2^64."""
    edges = np.arange(5301, dtype=np.uint32)
    mean, squares = box_moments(edges[:, None] * edges, 1024)
    assert (mean, squares) == (1024.0**2, 1024.0**4)


def test_measures_of_an_image():
    image = np.zeros((64, 80, 3), np.uint8)
    image[:16, :20, 1] = 127
    measured = measure_image(image)
    assert measured.fill_rate == 1 / 16 and measured.boxes == (16, 8, 4)
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    assert measured.bytes_per_pixel < 0.2 < 3 <= measure_image(noise).bytes_per_pixel < 3.1
    assert measured.digest != measure_image(image.swapaxes(0, 1)).digest
    assert measure_image(255 - image, WHITE) == replace(
        measured, digest=measure_image(255 - image).digest, bytes_per_pixel=measure_image(255 - image).bytes_per_pixel
    )
    assert find_ground([255 - image]) == WHITE and find_ground([image, noise]) == BLACK
    tiny = measure_image(np.full((3, 3), 5, np.uint8))
    assert np.isnan(tiny.dimension) and np.isnan(tiny.mean_lacunarity) and tiny.fill_rate == 1


# ---- images among others ---------------------------------------------------------------------------------------------


LEVELS = st.sampled_from([(0, 1), (254, 255), (0, 1, 127, 128, 255)])


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 5000), st.integers(0, 2**32 - 1), LEVELS)
def test_distances_are_exact(num, num_others, pixels, seed, levels):
    rng = np.random.default_rng(seed)
    one, other = (rng.choice(np.array(levels, np.uint8), (n, pixels)) for n in (num, num_others))
    by_hand = np.square(one[:, None].astype(np.int64) - other[None].astype(np.int64)).sum(axis=2)
    assert np.array_equal(squared_distances(one, other), by_hand)


def test_separability_is_one_of_distinct_and_chance_of_equal_images(pool):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    labels = np.arange(300)
    apart, of_images = separability([(images, images)], labels, pool)
    assert (apart.accuracy, apart.auc, apart.error, apart.across_images) == (1, 1, 0, None) and (of_images == 1).all()
    equal, _ = separability([(images[:1].repeat(300, 0),) * 2], labels, pool)
    assert (equal.accuracy, equal.auc, equal.chance) == (pytest.approx(1 / 300), 0.5, 1 / 300)
    unrelated, _ = separability([(images, images[::-1].copy())], labels, pool)
    assert unrelated.accuracy < 0.05 and abs(unrelated.auc - 0.5) < 0.1


def test_separability_across_images(pool):
    levels = np.array([0, 10, 100, 104, 200], np.uint8)
    views = levels[:, None, None].repeat(4, 1).repeat(4, 2)
    classes_apart, of_images = separability([(views, views)], np.array([7, 7, 7, 3, 3]), pool)
    assert classes_apart.accuracy == 1 and classes_apart.chance == (3 * 3 + 2 * 2) / 25 and classes_apart.classes == 2
    assert classes_apart.across_images == 3 / 5, "100 and 104 are nearest to one another"
    one, _ = separability([(views, views)], np.array([7, 7, 7, 7, 3]), pool)
    assert one.across_images == 1, "the class of one image has no other to be found"
    pairs = [(views, views), (views, np.roll(views, 1, 0))]
    classes_apart, of_images = separability(pairs, np.array([0, 1, 2, 3, 4]), pool)
    assert of_images.tolist() == [0.5] * 5 and classes_apart.pairs == 2


@given(st.integers(2, 9), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_correlations_are_those_of_numpy(num, pixels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (num, pixels), dtype=np.uint8)
    images[-1] = images[0] // 2
    expected = np.nan_to_num(np.corrcoef(images))
    np.fill_diagonal(expected, -1)
    flat = images.std(axis=1) == 0
    with ThreadPoolExecutor(1) as pool:
        assert nearest_correlations(images, pool) == pytest.approx(np.where(flat, 0, expected.max(axis=1)), abs=1e-6)


def test_samples_have_the_same_share_of_each_class():
    labels = np.repeat(np.arange(10), 100)
    assert np.bincount(labels[choose_sample(labels, 50, 0)]).tolist() == [5] * 10
    few = labels[choose_sample(labels, 7, 0)]
    assert len(few) == 7 and sorted(np.unique(few, return_counts=True)[1].tolist()) == [2, 2, 3]
    assert choose_sample(np.arange(9), 4, 1).tolist() != choose_sample(np.arange(9), 4, 2).tolist()
    assert choose_sample(labels, 5000, 0).tolist() == list(range(1000))
    uneven = np.array([0] * 90 + [1] * 2 + [2])
    assert np.bincount(uneven[choose_sample(uneven, 10, 3)]).tolist() == [7, 2, 1]


def test_planted_duplicates_are_counted():
    images = list(np.random.default_rng(0).integers(0, 256, (10, 32, 32), dtype=np.uint8))
    images[3], images[7] = images[0].copy(), images[5].copy()
    images[8] = images[1] ^ 1
    images[9] = np.zeros_like(images[0])
    result = score(source_of(images, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]), SMALL, Comparison(32))
    assert (result.exact_duplicates, result.mislabelled, result.near_duplicates, result.blank) == (2, 2, 6, 1)
    assert np.isnan(result.measures()["dimension"][9]) and result.near[9] == 0


# ---- sets ------------------------------------------------------------------------------------------------------------


def numbers(result):
    return [result.images, result.separability, result.near.tolist(), result.accuracies.tolist(), result.neighbourhood]


def views_of(images, seed, count):
    """Stand-in of training's augmentation: crops at random places."""
    rng = np.random.default_rng(seed)
    gray = images if images.ndim == 3 else images[..., 0]
    views = np.empty((count, len(images), 16, 16, 3), np.uint8)
    for view, image in np.ndindex(count, len(images)):
        y, x = rng.integers(0, np.array(gray.shape[1:]) - 15)
        views[view, image] = gray[image, y : y + 16, x : x + 16, None]
    return views


def test_workers_have_no_say():
    recipe = small_recipe(classes=70)
    settings = ScoreSettings(images=66, delta=(0.05,), perturbations=40, seed=4)
    one, two = (
        score(ImageSource.of(recipe), settings, Comparison(16, views_of), recipe=recipe, workers=workers)
        for workers in (1, 3)
    )
    assert numbers(one) == numbers(two) and one.separability.pairs == 4
    with pytest.raises(UsageError, match="workers -1: must be 1 or more"):
        score(ImageSource.of(recipe), settings, Comparison(16, views_of), workers=-1)
    other = score(ImageSource.of(recipe), replace(settings, seed=5), Comparison(16, views_of))
    assert other.numbers != one.numbers


def test_shapes_of_a_base_are_told_apart_where_delta_is_large(capsys):
    recipe = small_recipe(size=64, points=20_000, delta=0.05)
    settings = ScoreSettings(images=8, delta=(1e-6, 0.2, 1e5), perturbations=24)
    result = score(ImageSource.of(recipe), settings, Comparison(32), recipe=recipe, workers=2)
    judged = result.neighbourhood
    assert [each.delta for each in judged] == [1e-6, 0.05, 0.2, 1e5], "the set's own among them"
    least, _, large, absurd = judged
    assert least.shapes.accuracy < 0.5 < 0.95 < large.shapes.accuracy
    assert least.acceptance == 1 > large.acceptance and 0 < large.fill_rate < 1
    assert absurd.views is None and "perturbations could be kept" in absurd.error
    print_score(result, 32)
    printed = capsys.readouterr().out.splitlines()
    (row,) = (line for line in printed if "│" in line and "100000" in line)
    assert set(row) <= set("│ 100000") and printed[-1] == f"Delta 100000: {absurd.error}", "no number nobody measured"
    filled = replace(recipe, patch="fill")
    judged = score(ImageSource.of(filled), settings, Comparison(32), recipe=filled, workers=2).neighbourhood
    assert judged[0].shapes is None and judged[0].views is None, "without augmentation each would find itself"
    compared = Comparison(16, lambda images, seed, n: views_of(images[:1], seed, n).repeat(len(images), 1))
    views = score(ImageSource.of(filled), settings, compared, recipe=filled, workers=2).neighbourhood[0].views
    assert views.accuracy == pytest.approx(1 / 24), "equal images"


def test_images_of_any_mode_and_size():
    rng = np.random.default_rng(0)
    shapes = [(70, 80), (30, 40, 3), (16, 16), (300, 20)] * 10
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    result = score(source_of(images, np.arange(40) // 20), SMALL, Comparison(16, views_of))
    assert result.separability.classes == 2 and len({image.boxes for image in result.images}) > 1
    same = score(source_of(images, np.zeros(40, int)), SMALL, Comparison(16, views_of))
    assert same.separability is None and not len(same.accuracies)


@pytest.mark.parametrize("name", small_recipes())
def test_every_kind_of_set(name):
    recipe = small_recipes()[name]
    result = score(ImageSource.of(recipe), SMALL, Comparison(16, views_of), workers=2)
    assert len(result.images) == min(len(recipe), 64) and result.blank < len(result.images)
    assert result.separability.classes == recipe.num_classes
    fill = result.measures()["fill_rate"]
    assert np.nanmax(fill) < 0.9 or name == "noise, pixels" or "photo" in name or "multifractal" in name, "the ground"


def test_blank_images(capsys):
    result = score(source_of([np.zeros((32, 32), np.uint8)] * 6, range(6)), SMALL, Comparison(16, views_of))
    assert (result.blank, result.exact_duplicates, result.mislabelled, result.near_duplicates) == (6, 5, 6, 0)
    assert result.separability.accuracy == pytest.approx(1 / 6) and result.separability.auc == 0.5
    assert np.isnan(result.measures()["lacunarity"]).all()
    print_score(result, 16)
    assert draw_score(result).startswith(b"\x89PNG") and "blank 6; duplicates 5 exact" in capsys.readouterr().out


def test_what_is_refused(monkeypatch):
    images = [np.zeros((8, 8), np.uint8)] * 5000
    with pytest.raises(UsageError, match="a score needs two images at least, and there is 1"):
        score(source_of(images, [0]), SMALL, Comparison(8))
    with pytest.raises(UsageError, match=r"5000 images at 1024 pixels are 47.2 GB .* --images, or a smaller --size"):
        score(source_of(images, range(5000)), ScoreSettings(images=5000), Comparison(1024, views_of))
    recipe = small_recipe()
    monkeypatch.setattr(Viewer, "look", lambda *_: pytest.fail("it is said before anything is looked at"))
    with pytest.raises(UsageError, match=r"9000 images at 1024 pixels are .* fewer --perturbations, or a smaller"):
        score(ImageSource.of(recipe), ScoreSettings(perturbations=9000), Comparison(1024), recipe=recipe)
    with pytest.raises(UsageError, match="images"):
        ScoreSettings(images=1)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_folder_as_typed(fracgen, folder, tmp_path):
    small = ["--size", 32, "--perturbations", 8, "--delta", 0.05]
    code, out, err = fracgen("score", folder, *small, "--json", "--plot", "score.png")
    assert code == 0, err
    values = json.loads(out)
    assert (values["images"], values["classes"], values["augmented"], values["size"]) == (24, 24, True, 32)
    assert values["measures"]["fill_rate"]["least"] > 0.1 and 1 < values["measures"]["dimension"]["mean"] < 2
    assert [each["delta"] for each in values["neighbourhood"]] == [0.05, 0.1]
    assert Image.open("score.png").size[0] > 500
    code, out, err = fracgen("score", folder, *small)
    assert code == 0 and "told apart" in out and "box-counting dimension" in out and not err
    (tmp_path / "base.yaml").write_text("recipe: noise\nclasses: 5\nsize: 40\npoints: 500\n")
    code, out, _ = fracgen("score", "base.yaml", "--size", 16, "--json")
    assert code == 0 and not json.loads(out)["neighbourhood"]


def test_augmentation_of_a_config(fracgen, folder, tmp_path):
    (tmp_path / "none.yaml").write_text(
        "model: {name: anything}\naugment: {size: 24, scale: [1, 1], ratio: [1, 1], hflip: 0, vflip: 0, "
        "rand_augment: '', color_jitter: 0, erase: 0}\n"
    )
    code, out, _ = fracgen("score", folder, "--config", "none.yaml", "--perturbations", 0, "--json")
    values = json.loads(out)
    assert code == 0 and values["size"] == 24 and values["separability"]["accuracy"] == 1, "the same view twice"
    for text, word in (
        ("augment: {sise: 24}", "'augment.sise', did you mean 'size'?"),
        ("augment.size: 24", "augment.size"),
        ("augmnt: {size: 24}", "augmnt"),
        ("augment: 24", "augment"),
        ("augment: {size: x}", "augment.size"),
    ):
        (tmp_path / "bad.yaml").write_text(f"{text}\n")
        code, _, err = fracgen("score", folder, "--config", "bad.yaml")
        assert code == 2 and word in err and err.count("\n") == 1
    (tmp_path / "bad.yaml").write_text("augment: {hflip: x}\n")
    code, _, err = fracgen("score", folder, "--config", "bad.yaml", "--size", 32)
    assert code == 2 and err.startswith("fracgen: bad.yaml: augment.hflip 'x'")


def test_augmentation_of_a_masked_autoencoder(tmp_path):
    (tmp_path / "mae.yaml").write_text("mask: {ratio: 0.5}\naugment: {size: 24}\n")
    comparison, note = comparison_of(tmp_path / "mae.yaml", None)
    assert comparison.size == 24 and comparison.views is not None and not note


def test_other_images(fracgen, tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            size = (20 + number, 24, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / f"photos/{label}/{number}.png")
    code, out, err = fracgen("score", "photos", "--size", 16, "--json")
    assert code == 0 and json.loads(out)["separability"]["across_images"] is not None, err
    (tmp_path / "photos" / "a" / "1.png").write_bytes(b"no image")
    code, _, err = fracgen("score", "photos", "--size", 16)
    assert code == 2 and "1.png" in err and err.count("\n") == 1


def test_without_the_extra(fracgen, folder, monkeypatch):
    monkeypatch.setattr("fracgen.cli.score.training_augmenter", lambda: None)
    code, out, err = fracgen("score", folder, "--size", 16, "--perturbations", 0, "--json")
    values = json.loads(out)
    assert code == 0 and not values["augmented"] and "without augmentation" in err
    assert values["separability"] is None and not any(each["views"] for each in values["neighbourhood"])
    code, out, _ = fracgen("score", folder, "--size", 16, "--perturbations", 0)
    assert code == 0 and "told apart: not known, as each class has one image" in out, "it would find itself"
    code, out, err = fracgen("score", folder, "--size", 16, "--perturbations", 8, "--delta", 0.05)
    assert code == 0 and "views" not in out and "shapes, %" in out and "(chance 12.5 %)" in out, "no empty columns"
    assert "pip install 'fracgen[train]'" in err
    monkeypatch.setattr("fracgen.cli.score.find_spec", lambda name: None)
    code, _, err = fracgen("score", folder, "--plot", "x.png")
    assert code == 2 and "pip install 'fracgen[train]'" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere"),
        (["base.csv"], "base.csv"),
        (["folder", "--size", "2"], "--size"),
        (["folder", "--images", "1"], "images"),
        (["folder", "--config", "nothing.yaml"], "nothing.yaml"),
        (["folder", "--plot", "x.jpg"], "ends in .png"),
        (["folder", "--plot", "nowhere/x.png"], "no such folder"),
        (["folder", "--delta", "0"], "delta"),
    ],
)
def test_what_a_user_can_mend_is_one_line(fracgen, folder, words, line):
    words = [str(folder) if word == "folder" else word for word in words]
    code, out, err = fracgen("score", *words)
    assert code == 2 and line in err and err.count("\n") == 1 and not out


def test_sources(fracgen, folder, tmp_path):
    small = ["--size", 16, "--perturbations", 0, "--json"]
    with faulty_server(folder.parent) as server:
        code, out, err = fracgen("score", f"{server.url}/{folder.name}", *small)
    assert code == 0 and json.loads(out) == json.loads(fracgen("score", folder, *small)[1]), err
    base = small_recipe().base
    rows = [[*maps.ravel()[[0, 1, 3, 4, 2, 5]], p] for maps, p in zip(base.maps, base.p, strict=True)]
    (tmp_path / "base.csv").write_text("".join(",".join(map(repr, map(float, row))) + "\n" for row in rows))
    code, out, err = fracgen("score", "base.csv", *small, "--images", 4)
    assert code == 0 and json.loads(out)["classes"] == 4, err
    write_tar(tmp_path / "others" / "0.tar", [0, 1, 2, 0])
    write_tar(tmp_path / "others" / "1.tar", [2, 1, 1, 0])
    code, out, err = fracgen("score", "others/{0..1}.tar", "--num-classes", 3, *small)
    assert code == 0 and json.loads(out)["images"] == 8, err
    code, _, err = fracgen("score", "others/{0..1}.tar", *small)
    assert code == 2 and "--num-classes" in err and err.count("\n") == 1


def test_noise_is_no_fractal():
    """A plane's worth of evenly strewn patches has a higher dimension and a lower lacunarity than a cloud of them."""
    results = [
        score(ImageSource.of(Noise(classes=4, size=256, points=20_000, kind=kind)), SMALL, Comparison(16)).measures()
        for kind in ("uniform", "gaussian")
    ]
    assert results[0]["dimension"].min() > results[1]["dimension"].max()
    assert results[0]["lacunarity"].max() < results[1]["lacunarity"].min()
