"""The noise controls, pixel for pixel against plain Python, and their distributions."""

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fracgen.noise import Noise
from fracgen.registry import RECIPES, Recipe, from_dict, recipe_hash, to_dict
from fracgen.render_shards import plan, write_shards
from fracgen.rng import stream_key
from fracgen.shards.errors import UsageError
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import verify_folder

CLOUD = {"classes": 12, "size": 48, "pad": 3, "points": 700, "seed": 3}
PIXELS = {"classes": 12, "size": 48, "seed": 3}
KINDS = ["gaussian", "uniform", "pixel-gaussian", "pixel-uniform"]


# ---- the same in plain Python ----------------------------------------------------------------------------------------


def splitmix(key, number):
    """Number `number` of the SplitMix64 stream that starts at `key` (Steele, Lea and Flood, 2014)."""
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@cache
def ends(std, count):
    """Shares of the distribution that lie below 1 / count, 2 / count ... of the width; std None: uniform."""
    places = [k / count for k in range(1, count)]
    if std is None:
        return places
    below = [math.erfc((0.5 - place) / std / math.sqrt(2)) / 2 for place in (0.0, *places, 1.0)]
    return [(share - below[0]) / (below[-1] - below[0]) for share in below[1:-1]]


def level(bits, std, count):
    """The quantile at 16 random bits, a whole number in 0..count-1: how many of the ends lie below it."""
    return bisect_right(ends(std, count), (bits + 0.5) / 65_536)


def coin(recipe, key, x, y):
    """Bit at column x, row y from the bottom, of the field from which all patches of an image are cut."""
    words = -(-recipe.size // 64)
    return splitmix(key, y * words + x // 64) >> x % 64 & 1


def oracle_places(recipe, index):
    """Column and row (from the bottom) of each point."""
    width = recipe.size - 2 * recipe.pad
    std = recipe.std if recipe.kind == "gaussian" else None
    shared = recipe.cloud == "shared"
    noise_key = stream_key(recipe.seed, 0 if shared else index, "noise")
    moves_key = stream_key(recipe.seed, index, "moves")
    reach = round(recipe.delta / 2 * width)
    places = []
    for i in range(recipe.points):
        z = splitmix(noise_key, i // 2)
        pair = z % 2**32 if i % 2 else z >> 32
        u, v = level(pair >> 16, std, width), level(pair % 2**16, std, width)
        if shared and reach:
            z = splitmix(moves_key, i)
            u += ((z >> 32) * (2 * reach + 1) >> 32) - reach
            v += ((z % 2**32) * (2 * reach + 1) >> 32) - reach
            u, v = min(max(u, 0), width - 1), min(max(v, 0), width - 1)
        places.append((u + recipe.pad, v + recipe.pad))
    return places


def oracle(recipe, index):
    size = recipe.size
    image = np.zeros((size, size), np.uint8)
    if recipe.kind.startswith("pixel-"):
        key = stream_key(recipe.seed, index, "noise")
        std = recipe.std if recipe.kind == "pixel-gaussian" else None
        for place in range(size * size):
            bits = (splitmix(key, place // 4) >> 16 * (place % 4)) % 2**16
            image[place // size, place % size] = level(bits, std, 256)
        return image
    key = stream_key(recipe.seed, index, "masks")
    for u, v in oracle_places(recipe, index):
        for bit in range(9):
            y, x = v + 1 + bit // 3, u + 1 + bit % 3
            if y < size and x < size:
                image[y, x] = 127 * coin(recipe, key, x, y)
    return image[::-1]


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "uniform"},
        {"std": 0.05},
        {"std": 0.3},
        {"std": 10.0},
        {"seed": 2**63 - 1, "size": 31, "pad": 0},
        {"points": 2},
        {"kind": "uniform", "cloud": "shared"},
        {"kind": "uniform", "cloud": "shared", "delta": 1.0},
        {"kind": "uniform", "cloud": "shared", "delta": 0.01},
        {"kind": "uniform", "cloud": "shared", "delta": 0.0},
        {"cloud": "shared"},
        {"cloud": "shared", "std": 0.3, "delta": 0.5},
        {"cloud": "shared", "std": 0.05, "delta": 0.0},
        {"size": 201, "pad": 9},
    ],
    ids=str,
)
def test_every_pixel_of_clouds_is_the_oracles(changes):
    recipe = Noise(**{**CLOUD, **changes})
    for sample in recipe.render([0, 1, 11]):
        assert np.array_equal(sample.image, oracle(recipe, sample.index)), sample.index


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "pixel-gaussian"},
        {"kind": "pixel-uniform"},
        {"kind": "pixel-gaussian", "std": 0.01},
        {"kind": "pixel-gaussian", "std": 0.5},
        {"kind": "pixel-uniform", "size": 33},
        {"kind": "pixel-gaussian", "size": 9, "pad": 0, "cloud": "shared"},
    ],
    ids=str,
)
def test_every_pixel_of_pixel_noise_is_the_oracles(changes):
    recipe = Noise(**{**PIXELS, **changes})
    for sample in recipe.render([0, 1, 11]):
        assert np.array_equal(sample.image, oracle(recipe, sample.index)), sample.index


@pytest.mark.parametrize("changes", [{"std": 0.05, "delta": 1.0}, {"size": 512, "points": 20_000}], ids=str)
def test_moves_reach_both_borders(changes):
    recipe = Noise(**{**CLOUD, "cloud": "shared", **changes})
    for sample in recipe.render([0, 1]):
        assert np.array_equal(sample.image, oracle(recipe, sample.index))


def test_pixels_are_pinned():
    """These pixels are the format: other streams make other data sets out of the same seeds."""
    drawn = {
        kind: hashlib.sha256(next(Noise(**CLOUD, kind=kind, cloud="shared").render([7])).image).hexdigest()[:16]
        for kind in KINDS
    }
    assert drawn == {
        "gaussian": "a2796d262f4299e4",
        "uniform": "cf40b7cc9aeea7e0",
        "pixel-gaussian": "c0c3e5a5ec9cb143",
        "pixel-uniform": "54a4fb017316b779",
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cloud", ["class", "shared"])
def test_an_image_depends_on_its_index_only(kind, cloud):
    recipe = Noise(**{**CLOUD, "kind": kind, "cloud": cloud})
    alone = [next(recipe.render([index])) for index in range(12)]
    for order in (range(12), range(11, -1, -1), [5, 5, 0, 11, 5]):
        for index, sample in zip(order, recipe.render(order), strict=True):
            assert sample.index == index and sample.metadata == alone[index].metadata
            assert np.array_equal(sample.image, alone[index].image)
    assert np.array_equal(next(replace(recipe, classes=4).render([3])).image, alone[3].image)
    assert not np.array_equal(next(replace(recipe, seed=4).render([3])).image, alone[3].image)
    assert len({sample.image.tobytes() for sample in alone}) == 12


def test_shared_clouds_that_do_not_move_have_equal_places():
    """Two classes differ in the patches' masks only: their centres, grown by a patch, are the same."""
    recipe = Noise(**{**CLOUD, "cloud": "shared", "delta": 0.0, "points": 40})
    filled = np.zeros((12, 48, 48), bool)
    places = oracle_places(recipe, 0)
    for sample in recipe.render(range(12)):
        assert oracle_places(recipe, sample.index) == places
        filled[sample.index] = sample.image > 0
    blocks = np.zeros((48, 48), bool)
    for u, v in places:
        blocks[v + 1 : v + 4, u + 1 : u + 4] = True
    assert not filled[:, ~blocks[::-1]].any()
    assert filled.any(axis=0).sum() > 0.95 * blocks.sum()
    assert len({each.tobytes() for each in filled}) == 12


# ---- distributions ---------------------------------------------------------------------------------------------------


def lit_places(kind, points, **changes):
    """(row from the top, column) of what is lit by few points on a large image, as shares of the width."""
    recipe = Noise(kind=kind, size=2048, pad=0, points=points, seed=1, **changes)
    (sample,) = recipe.render([0])
    return (np.argwhere(sample.image) + 0.5) / 2048


@pytest.mark.parametrize("std", [0.08, 0.125, 0.2])
def test_gaussian_clouds_are_gaussian(std):
    """Along both axes: mean, deviation, shares within one and two deviations; and independent."""
    places = lit_places("gaussian", 3000, std=std)
    for axis in places.T:
        distance = np.abs(axis - 0.5) / std
        assert axis.mean() == pytest.approx(0.5, abs=0.06 * std + 0.001)
        for within in (1, 2):
            inside = math.erf(within / math.sqrt(2)) / math.erf(min(0.5 / std, 40) / math.sqrt(2))
            assert (distance < within).mean() == pytest.approx(inside, abs=0.03)
    assert np.corrcoef(places.T)[0, 1] == pytest.approx(0, abs=0.04)


def test_uniform_clouds_are_uniform():
    places = lit_places("uniform", 20_000)
    for axis in places.T:
        counts = np.histogram(axis, 16, (0, 1))[0]
        assert np.abs(counts / counts.mean() - 1).max() < 0.1
    assert np.corrcoef(places.T)[0, 1] == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("std", [0.03, 0.125])
def test_pixel_gaussians_are_gaussian(std):
    image = next(Noise(kind="pixel-gaussian", size=512, std=std).render([0])).image.astype(float)
    assert image.mean() == pytest.approx(127.5, abs=0.5) and image.std() == pytest.approx(256 * std, rel=0.02)
    inside = (np.abs(image - 127.5) < 256 * std).mean()
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.03)
    for shifted in (image[1:, :-1], image[:-1, 1:]):
        assert np.corrcoef(shifted.ravel(), image[:-1, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_pixel_uniforms_are_uniform():
    image = next(Noise(kind="pixel-uniform", size=512).render([0])).image
    counts = np.bincount(image.ravel(), minlength=256)
    chi_square = ((counts - 1024) ** 2 / 1024).sum()
    assert 170 < chi_square < 350, "255 degrees of freedom"


def test_a_very_wide_gaussian_is_uniform():
    wide, uniform = (Noise(**PIXELS, kind=kind, std=10.0) for kind in ("pixel-gaussian", "pixel-uniform"))
    one, other = (next(recipe.render([0])).image.astype(int) for recipe in (wide, uniform))
    assert np.abs(one - other).max() <= 1


def test_moves_are_uniform_within_delta():
    """Seen at a single point, over many classes."""
    recipe = Noise(kind="uniform", cloud="shared", classes=3000, size=108, pad=4, points=4, delta=0.1, seed=3)
    start = oracle_places(replace(recipe, delta=0.0), 0)[-1]
    assert all(10 < place < 98 for place in start), "far from the border"
    moved = [oracle_places(recipe, index)[-1] for index in range(3000)]
    for axis in range(2):
        counts = Counter(place[axis] - start[axis] for place in moved)
        assert sorted(counts) == list(range(-5, 6))
        assert all(abs(count - 3000 / 11) < 5 * (3000 / 11) ** 0.5 for count in counts.values())
    for sample in recipe.render([0, 7, 2999]):
        assert np.array_equal(sample.image, oracle(recipe, sample.index))


# ---- the recipe ------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_1p_frac():
    recipe = Noise()
    assert (len(recipe), recipe.num_classes, recipe.image_shape) == (1000, 1000, (512, 512))
    assert (recipe.kind, recipe.size, recipe.pad, recipe.points) == ("gaussian", 512, 6, 100_000)
    assert (recipe.std, recipe.cloud, recipe.delta) == (0.125, "class", 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_of_itself(kind):
    recipe = Noise(**CLOUD, kind=kind)
    assert isinstance(recipe, Recipe) and RECIPES["noise"] is Noise
    assert recipe.resolve() == (recipe, {}) and Noise(kind=kind).warnings({}) == [] and recipe.group == 1
    assert recipe.title == f"noise-{kind}-12"
    assert recipe.class_names == tuple(f"{label:02d}" for label in range(12))
    assert from_dict(to_dict(recipe)) == recipe


@pytest.mark.parametrize("kind", KINDS)
def test_two_level(kind):
    recipe = Noise(**CLOUD, kind=kind)
    levels = {value for sample in recipe.render(range(3)) for value in np.unique(sample.image).tolist()}
    assert recipe.two_level == (not kind.startswith("pixel-")) == (levels == {0, 127})
    if recipe.two_level:
        assert plan(recipe, png_bits=1).png_bits == 1
    else:
        assert len(levels) > 50
        with pytest.raises(UsageError, match="--png-bits 1"):
            plan(recipe, png_bits=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cloud", ["class", "shared"])
def test_metadata_and_label(kind, cloud):
    recipe = Noise(**{**CLOUD, "kind": kind, "cloud": cloud})
    patches, shared = not kind.startswith("pixel-"), cloud == "shared" and not kind.startswith("pixel-")
    for index, sample in enumerate(recipe.render(np.arange(12).tolist())):
        assert (sample.index, sample.label) == (index, index) and type(sample.label) is int
        assert sample.metadata == {
            "formula": "noise",
            "kind": kind,
            "noise_key": f"{stream_key(3, 0 if shared else index, 'noise'):016x}",
            "moves_key": f"{stream_key(3, index, 'moves') if shared else 0:016x}",
            "mask_key": f"{stream_key(3, index, 'masks') if patches else 0:016x}",
        }
        assert sample.image.shape == (48, 48) and sample.image.dtype == np.uint8
        assert not sample.rejected and not sample.counts


def test_classes_that_are_one_cloud_are_warned_of():
    still = Noise(**{**CLOUD, "cloud": "shared", "delta": 0.0})
    assert "all 12 classes are the same cloud" in still.warnings({})[0]
    assert "delta 0" in replace(still, delta=-0.0, kind="uniform").warnings({})[0]
    for other in ({"delta": 0.1}, {"cloud": "class"}, {"kind": "pixel-uniform"}):
        assert not any("same cloud" in warning for warning in replace(still, **other).warnings({}))


def test_values_that_change_nothing_are_warned_of():
    for values, names in [
        ({"kind": "uniform", "std": 0.2}, ["std"]),
        ({"delta": 0.3}, ["delta"]),
        ({"delta": 0.3, "cloud": "shared"}, []),
        ({"kind": "pixel-gaussian", "std": 0.2, "points": 7, "pad": 1}, ["pad", "points"]),
        ({"kind": "pixel-uniform", "std": 0.2, "cloud": "shared"}, ["cloud", "std"]),
    ]:
        recipe = Noise(**values)
        assert [warning.split()[0] for warning in recipe.warnings({})] == names
        plain = replace(recipe, **{name: getattr(Noise(), name) for name in names})
        images = [next(each.render([3])).image for each in (recipe, plain)]
        assert np.array_equal(*images)


def test_moves_of_less_than_a_pixel_are_warned_of():
    recipe = Noise(**{**CLOUD, "cloud": "shared", "delta": 0.01, "points": 2})
    assert oracle_places(recipe, 0) == oracle_places(recipe, 1)
    assert recipe.warnings({})


def test_the_hash_changes_with_every_field():
    recipe = Noise(**CLOUD)
    changes = {
        "kind": "uniform",
        "classes": 13,
        "seed": 4,
        "size": 49,
        "pad": 4,
        "points": 701,
        "std": 0.2,
        "cloud": "shared",
        "delta": 0.2,
    }
    assert set(changes) == set(to_dict(recipe)) - {"recipe"}
    hashes = {recipe_hash(replace(recipe, **{name: value})) for name, value in changes.items()}
    assert len(hashes | {recipe_hash(recipe)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pink"}, "kind 'pink'"),
        ({"cloud": "own"}, "cloud 'own'"),
        ({"classes": 0}, "classes 0"),
        ({"seed": -1}, "seed -1"),
        ({"size": 7}, "size 7"),
        ({"pad": 256}, "pad 256"),
        ({"points": 1}, "points 1"),
        ({"std": 0.0}, r"std 0\.0"),
        ({"std": 11.0}, r"std 11\.0"),
        ({"std": float("nan")}, "std nan"),
        ({"delta": -0.1}, r"delta -0\.1"),
        ({"delta": 1.1}, r"delta 1\.1"),
        ({"delta": float("nan")}, "delta nan"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        Noise(**changes)


def test_an_index_outside_is_refused():
    for index in (-1, 12):
        with pytest.raises(UsageError, match="0 to 11"):
            list(Noise(**CLOUD).render([index]))


def test_preview_shows_classes():
    recipe = Noise(**{**CLOUD, "classes": 30})
    columns = list(recipe.preview())
    captions = [caption for column in columns for caption, _ in column]
    assert [len(column) for column in columns] == [2] * 6
    assert captions[0] == "gaussian 0" and captions[-1] == "gaussian 29" and len(set(captions)) == 12
    assert np.array_equal(columns[-1][1][1], next(recipe.render([29])).image)
    assert len(list(replace(recipe, classes=1).preview())) == 1


@pytest.mark.parametrize("kind", ["gaussian", "pixel-uniform"])
def test_a_folder(tmp_path, kind):
    recipe = Noise(**CLOUD, kind=kind)
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=3), workers=2)
    shards = open_shards(tmp_path / "set")
    assert verify_folder(shards) == []
    read = {sample.index: sample for sample in shards}
    assert sorted(read) == list(range(12))
    for sample in recipe.render(range(12)):
        assert np.array_equal(read[sample.index].image, sample.image)
        assert (read[sample.index].label, read[sample.index].metadata) == (sample.label, sample.metadata)


def test_a_patch_is_fair_coins_on_black():
    """Under patches half of the pixels are lit, whether they lie alone or a hundred deep; elsewhere none."""
    for points in (40, 4000):
        lit = covered = 0
        for index in range(12):
            recipe = Noise(**{**CLOUD, "points": points})
            blocks = np.zeros((48, 48), bool)
            for u, v in oracle_places(recipe, index):
                blocks[v + 1 : v + 4, u + 1 : u + 4] = True
            image = next(recipe.render([index])).image
            assert not image[~blocks[::-1]].any()
            lit, covered = lit + int((image > 0).sum()), covered + int(blocks.sum())
        assert abs(lit / covered - 0.5) < 4 * 0.5 / covered**0.5
