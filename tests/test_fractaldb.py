"""FractalDB and OFDB: every image against the plain renderer, indices, folders, and what tells recipes apart."""

import hashlib
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from conftest import contents

from fracgen.categories import Categories
from fracgen.fractaldb import OFDB, FractalDB, weight_vectors
from fracgen.ifs import IFS, sample_maps
from fracgen.plain import draw_plain
from fracgen.registry import RECIPES, Recipe, from_dict, inputs, load_recipe, recipe_hash, save_recipe, to_dict
from fracgen.rng import stream_key
from fracgen.search import find_categories
from fracgen.shards.errors import DataError, UsageError

STYLE = {"size": 48, "pad": 3, "points": 1500}
FLIP = {
    "none": lambda image: image,
    "top-bottom": np.flipud,
    "left-right": np.fliplr,
    "both": lambda image: np.flipud(np.fliplr(image)),
}
FLIPS = list(FLIP)


def system(maps, p=None):
    maps = np.array(maps, float)
    return IFS.from_maps(maps) if p is None else IFS(maps, np.array(p))


RANDOM = np.random.Generator(np.random.PCG64(5))
SYSTEMS = Categories(
    (
        IFS.from_maps(sample_maps(3.0, 2, RANDOM)),
        IFS.from_maps(sample_maps(4.0, 3, RANDOM)),
        system(
            [[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 0.5], [0, 0.5, 0]], [[0.5, 0, 0.2], [0, 0.5, 0.5]]], [0.2, 0.3, 0.5]
        ),
    )
)
"""The third is a Sierpinski triangle, whose p is not that of its determinants."""
GROWS = system([[[1.0, -1.0, 0.3], [1.0, 1.0, 0.1]]])
"""Grows by sqrt(2) a step: with 4000 points it overflows after 2048."""
EXPLODES = system([[[1e10, -1e10, 1.0], [1e10, 1e10, 1.0]]])
"""Overflows after 31 points, so that nothing is left of it."""


def fractaldb(systems=SYSTEMS, **changes) -> FractalDB:
    values = {"categories": len(systems), "instances": 2, **STYLE, "systems": systems, **changes}
    return FractalDB(**values)


def ofdb(systems=SYSTEMS, **changes) -> OFDB:
    return OFDB(**{"categories": len(systems), **STYLE, "systems": systems, **changes})


def weighted(ifs, weights) -> np.ndarray:
    wa, wb, wc, wd, we, wf = weights
    return np.array(
        [[[a * wa, b * wb, e * we], [c * wc, d * wd, f * wf]] for (a, b, e), (c, d, f) in ifs.maps.tolist()]
    )


@pytest.fixture(scope="module")
def recipe() -> FractalDB:
    return fractaldb()


@pytest.fixture(scope="module")
def samples(recipe) -> list:
    return list(recipe.render(range(len(recipe))))


# ---- weights ---------------------------------------------------------------------------------------------------------


def table(step):
    """25 vectors: a = 1 - 2 step ... 1 + 2 step and the rest 1; then b, c, d, e, f likewise, without 1."""
    levels = [float(1 + k * Decimal(step)) for k in (-2, -1, 0, 1, 2)]
    vectors = [[level, 1.0, 1.0, 1.0, 1.0, 1.0] for level in levels]
    for column in range(1, 6):
        vectors += [[level if j == column else 1.0 for j in range(6)] for level in levels if level != 1]
    return vectors


def test_weights_are_the_published_ones():
    vectors = weight_vectors(0.4).tolist()
    assert vectors == table("0.4") and len(vectors) == 25
    assert [vector[0] for vector in vectors[:5]] == [0.2, 0.6, 1.0, 1.4, 1.8]
    assert [vector[5] for vector in vectors[21:]] == [0.2, 0.6, 1.4, 1.8]
    assert len(set(map(tuple, vectors))) == 25 and vectors.count([1.0] * 6) == 1


@pytest.mark.parametrize("step", ["0.1", "0.2", "0.3", "0.5", "1", "0.000001"])
def test_weights_of_other_steps(step):
    assert weight_vectors(float(step)).tolist() == table(step)


# ---- images ----------------------------------------------------------------------------------------------------------

OTHER_STYLES = [
    {"draw": "point"},
    {"draw": "point", "color": "color"},
    {"color": "color"},
    {"patch": "fill"},
    {"patch": "fill", "color": "color"},
    {"pad": 0, "size": 33},
    {"points": 2},
    {"weights": 0.1, "seed": 11},
]


def assert_is_plain(recipe, sample):
    """The image is what its metadata says: drawn with the category's own p, then mirrored by numpy."""
    metadata = sample.metadata
    ifs = recipe.systems[metadata["category"]]
    image = draw_plain(weighted(ifs, metadata["weights"]), ifs.p, recipe.style, int(metadata["mask_key"], 16))
    assert np.array_equal(sample.image, FLIP[metadata.get("flip", "none")](image)), sample.index
    assert sample.image.shape == recipe.image_shape and sample.image.dtype == np.uint8
    assert sample.image.flags.c_contiguous


def test_every_image_is_the_plain_renderers(recipe, samples):
    assert len(samples) == 3 * 25 * 2 * 4
    drawings = {}
    for sample in samples:
        category, weights, key = (sample.metadata[name] for name in ("category", "weights", "mask_key"))
        if (category, *weights, key) not in drawings:
            ifs = recipe.systems[category]
            drawings[category, *weights, key] = draw_plain(weighted(ifs, weights), ifs.p, recipe.style, int(key, 16))
        image = FLIP[sample.metadata["flip"]](drawings[category, *weights, key])
        assert np.array_equal(sample.image, image), sample.index
    assert len(drawings) == 3 * 25 * 2


@pytest.mark.parametrize("style", OTHER_STYLES, ids=str)
def test_other_styles_are_the_plain_renderers(style):
    recipe = fractaldb(**style)
    for sample in recipe.render(range(0, len(recipe), 37)):
        assert_is_plain(recipe, sample)


def test_pixels_are_pinned():
    """These pixels are the format: another stream of masks, or order of images, makes other data sets."""
    drawn = [next(fractaldb().render([523])), next(ofdb().render([2])), next(ofdb(color="color").render([2]))]
    assert [hashlib.sha256(sample.image).hexdigest()[:16] for sample in drawn] == [
        "99bf3c54c9971073",
        "f5954c6605eaa668",
        "bae4c965ca83fca6",
    ]


def test_weights_change_the_maps_and_not_p():
    """A system whose probabilities would change with its determinants."""
    lopsided = system([[[0.7, 0, 0], [0, 0.7, 0.1]], [[0.1, -0.6, 0.5], [0.6, 0.1, 0.5]]])
    recipe = fractaldb(Categories((lopsided,)), draw="point")
    differs = False
    for sample in recipe.render(range(0, len(recipe), 8)):
        maps = weighted(lopsided, sample.metadata["weights"])
        assert np.array_equal(sample.image, draw_plain(maps, lopsided.p, recipe.style))
        differs |= not np.array_equal(sample.image, draw_plain(maps, IFS.from_maps(maps).p, recipe.style))
    assert differs


def test_an_index_is_category_weight_instance_flip(recipe, samples):
    schema = {
        "formula": str,
        "category": int,
        "weights": list,
        "instance": int,
        "flip": str,
        "points": int,
        "mask_key": str,
    }
    for index, sample in enumerate(samples):
        assert (sample.index, sample.label) == (index, index // 200) and type(sample.label) is int
        assert {name: type(value) for name, value in sample.metadata.items()} == schema
        assert sample.metadata["formula"] == "fractaldb"
        assert sample.metadata["category"] == sample.label
        assert sample.metadata["weights"] == table("0.4")[index // 8 % 25]
        assert sample.metadata["instance"] == index // 4 % 2
        assert sample.metadata["flip"] == FLIPS[index % 4]
        assert sample.metadata["mask_key"] == f"{stream_key(0, index // 4, 'masks'):016x}"
        assert sample.metadata["points"] == 1500 and sample.counts == {"trimmed": 0} and not sample.rejected


def test_an_image_depends_on_its_index_only(recipe, samples):
    random = np.random.RandomState(0)
    for order in (
        range(599, -1, -7),
        random.randint(0, 600, 60).tolist(),
        [5, 5, 0, 599, 5, 4],
        [203],
        np.arange(9, 3, -1),
    ):
        for index, sample in zip(order, fractaldb().render(order), strict=True):
            assert sample.index == index
            assert np.array_equal(sample.image, samples[index].image)
            assert sample.metadata == samples[index].metadata and sample.label == samples[index].label
    first = next(fractaldb(categories=1).render([123]))
    assert np.array_equal(first.image, samples[123].image), "the number of categories has no say in it"


def test_instances_have_masks_of_their_own_and_flips_share_them(recipe, samples):
    keys = [sample.metadata["mask_key"] for sample in samples]
    assert all(len(set(keys[start : start + 4])) == 1 for start in range(0, len(keys), 4))
    assert len(set(keys)) == len(keys) / 4
    images = {sample.image.tobytes() for sample in samples[:: recipe.group]}
    for start in range(0, len(samples), recipe.group):
        one, other = samples[start].image, samples[start + 4].image
        assert not np.array_equal(one, other)
    assert len(images) > 60
    again = next(fractaldb(seed=1).render([0]))
    assert again.metadata["mask_key"] != keys[0] and not np.array_equal(again.image, samples[0].image)


# ---- orbits that diverge ---------------------------------------------------------------------------------------------


def test_a_diverging_orbit_is_trimmed():
    recipe = fractaldb(Categories((SYSTEMS[0], GROWS)), points=2500, instances=1)
    trimmed = 0
    for sample in recipe.render(range(40, len(recipe), 4)):
        assert_is_plain(recipe, sample)
        diverges = sample.metadata["points"] < 2500
        assert sample.counts == {"trimmed": int(diverges)}
        trimmed += diverges
        if sample.label == 1 and sample.metadata["weights"] == [1.0] * 6:
            assert 1900 < sample.metadata["points"] < 2048
    assert 5 < trimmed <= 25


def test_an_orbit_that_leaves_nothing_is_an_error():
    systems = Categories((SYSTEMS[0], EXPLODES))
    for recipe in (fractaldb(systems), ofdb(systems)):
        assert recipe.warnings({}) == []
        assert next(recipe.render([0])).label == 0
        with pytest.raises(DataError, match="category 1: its orbit overflows at once"):
            list(recipe.render([len(recipe) // 2]))


# ---- OFDB ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [{}, *OTHER_STYLES[:-1]], ids=str)
@pytest.mark.parametrize(
    ("weights", "vector"), [("identity", [1.0] * 6), ("published", [0.2, 1.0, 1.0, 1.0, 1.0, 1.0])]
)
def test_ofdb_is_each_category_once(style, weights, vector):
    recipe = ofdb(weights=weights, **style)
    assert len(recipe) == recipe.num_classes == 3 and recipe.group == 1
    for index, sample in enumerate(recipe.render(range(3))):
        assert (sample.index, sample.label) == (index, index)
        assert sample.metadata == {
            "formula": "ofdb",
            "category": index,
            "weights": vector,
            "points": recipe.points,
            "mask_key": f"{stream_key(recipe.seed, index, 'masks'):016x}",
        }
        assert sample.counts == {"trimmed": 0}
        assert_is_plain(recipe, sample)


def test_ofdb_depends_on_its_index_only():
    images = [sample.image for sample in ofdb().render(range(3))]
    for index, sample in zip([2, 0, 1, 1], ofdb().render([2, 0, 1, 1]), strict=True):
        assert sample.index == index and np.array_equal(sample.image, images[index])


def test_ofdb_trims_as_fractaldb_does():
    recipe = ofdb(Categories((GROWS,)), points=4000)
    (sample,) = recipe.render([0])
    assert_is_plain(recipe, sample)
    assert sample.counts == {"trimmed": 1} and 1900 < sample.metadata["points"] < 2048


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_sets():
    recipe = FractalDB()
    assert (len(recipe), recipe.num_classes, recipe.group) == (1_000_000, 1000, 40)
    assert (recipe.size, recipe.pad, recipe.points) == (362, 6, 200_000)
    assert (recipe.draw, recipe.color, recipe.patch, recipe.weights) == ("patch", "gray", "random", 0.4)
    recipe = OFDB()
    assert (len(recipe), recipe.num_classes, recipe.group) == (1000, 1000, 1)
    assert (recipe.size, recipe.pad, recipe.points, recipe.weights) == (362, 6, 200_000, "identity")


@pytest.mark.parametrize("make", [fractaldb, ofdb])
def test_what_a_recipe_says_of_itself(make):
    recipe = make()
    assert isinstance(recipe, Recipe) and RECIPES[recipe.NAME] is type(recipe)
    assert recipe.class_names == ("00000", "00001", "00002") and recipe.num_classes == 3
    assert recipe.resolve() == (recipe, {"categories": "given"})
    assert (recipe.two_level, recipe.image_shape) == (True, (48, 48))
    assert (make(color="color").two_level, make(color="color").image_shape) == (False, (48, 48, 3))


def test_titles_count_classes_and_images():
    assert FractalDB().title == "fractaldb-1000x1000" and OFDB().title == "ofdb-1000x1"


@pytest.mark.parametrize("make", [fractaldb, ofdb])
def test_more_systems_than_categories(make):
    recipe = make(categories=2)
    assert recipe.systems.systems == SYSTEMS.systems[:2] and recipe.num_classes == 2
    assert recipe == make(Categories(SYSTEMS.systems[:2])), "the others are nothing to it"
    with pytest.raises(UsageError, match="categories 4: only 3 are given"):
        make(categories=4)


def test_identical_instances_are_warned_of():
    for style in ({"draw": "point"}, {"patch": "fill"}, {"draw": "point", "patch": "fill"}):
        recipe = fractaldb(**style)
        assert "instances 2: they are identical" in recipe.warnings({})[0]
        one, other = recipe.render([0, 4])
        assert np.array_equal(one.image, other.image)
        assert fractaldb(instances=1, **style).warnings({}) == []
    assert fractaldb().warnings({}) == [] and ofdb(draw="point").warnings({}) == []


NUDGED = Categories((*SYSTEMS.systems[:2], IFS(np.nextafter(SYSTEMS[2].maps, 2), SYSTEMS[2].p)))
REWEIGHTED = Categories((*SYSTEMS.systems[:2], IFS(SYSTEMS[2].maps, np.array([0.3, 0.2, 0.5]))))
CHANGES = {
    "categories": 2,
    "seed": 1,
    "size": 49,
    "pad": 4,
    "points": 1501,
    "draw": "point",
    "color": "color",
    "patch": "fill",
}


@pytest.mark.parametrize(
    ("make", "own"), [(fractaldb, {"instances": 3, "weights": 0.3}), (ofdb, {"weights": "published"})]
)
def test_the_hash_changes_with_every_field(make, own):
    changes = {**CHANGES, **own}
    recipe = make()
    assert {*changes, "systems"} == {*to_dict(recipe)} - {"recipe"}
    hashes = [recipe_hash(replace(recipe, **{name: value})) for name, value in changes.items()]
    hashes += [recipe_hash(replace(recipe, systems=systems)) for systems in (NUDGED, REWEIGHTED)]
    assert len({recipe_hash(recipe), *hashes}) == 1 + len(hashes)
    assert recipe_hash(make()) == recipe_hash(recipe)
    assert recipe_hash(fractaldb()) != recipe_hash(ofdb())


@pytest.mark.parametrize("make", [fractaldb, ofdb])
def test_to_a_file_and_back(make, tmp_path):
    recipe = make(categories=2, seed=5)
    values = to_dict(recipe)
    data = SYSTEMS.to_bytes()
    ((name, kept),) = inputs(recipe).items()
    assert name == "categories.csv" and kept == recipe.systems.to_bytes() and data.startswith(kept)
    assert values["systems"] == {"file": name, "sha256": hashlib.sha256(kept).hexdigest()}
    with pytest.raises(UsageError, match=r"categories\.csv: missing"):
        from_dict(values, tmp_path)
    (tmp_path / name).write_bytes(kept)
    assert from_dict(values, tmp_path) == recipe
    for other in (data, kept.replace(b"0", b"1", 1), b""):
        (tmp_path / name).write_bytes(other)
        with pytest.raises(UsageError, match="is not the file that the recipe names"):
            from_dict(values, tmp_path)
    with pytest.raises(UsageError, match=r"must be .*categories\.csv"):
        from_dict({**values, "systems": {**values["systems"], "file": "../categories.csv"}}, tmp_path)


@pytest.mark.parametrize("make", [fractaldb, ofdb])
def test_yaml_and_back(make, tmp_path):
    recipe = make()
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert sorted(contents(tmp_path)) == ["categories.csv", "recipe.yaml"]
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    save_recipe(replace(recipe, seed=1), tmp_path / "other.yaml")
    with pytest.raises(UsageError, match="another recipe's is there"):
        save_recipe(make(NUDGED), tmp_path / "third.yaml")


@pytest.mark.parametrize("kind", [FractalDB, OFDB])
def test_categories_that_are_not_given_are_searched(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    recipe = kind(categories=2, **STYLE)
    assert "systems" not in to_dict(recipe) and inputs(recipe) == {}
    with pytest.raises(UsageError, match="resolve"):
        list(recipe.render([0]))
    resolved, provenance = recipe.resolve()
    categories, expected = find_categories(2)
    assert resolved == replace(recipe, systems=categories)
    assert provenance == {"categories": "searched", **expected}
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert recipe.resolve() == (resolved, provenance) and resolved.resolve()[0] == resolved
    assert_is_plain(resolved, next(resolved.render([1])))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        *(
            (kind, changes, message)
            for kind in (FractalDB, OFDB)
            for changes, message in [
                ({"categories": 0}, "categories 0"),
                ({"categories": 1_000_001}, "categories 1000001"),
                ({"seed": -1}, "seed -1"),
                ({"size": 7}, "size 7"),
                ({"pad": 181}, "pad 181"),
                ({"points": 1}, "points 1"),
                ({"draw": "line"}, "draw 'line'"),
                ({"color": "red"}, "color 'red'"),
                ({"patch": "none"}, "patch 'none'"),
            ]
        ),
        (FractalDB, {"instances": 0}, "instances 0"),
        (FractalDB, {"weights": 0.0}, r"weights 0\.0"),
        (FractalDB, {"weights": float("nan")}, "weights nan"),
        (OFDB, {"weights": "all"}, "weights 'all'"),
    ],
)
def test_impossible_values(kind, changes, message):
    with pytest.raises(UsageError, match=message):
        kind(**changes)


@pytest.mark.parametrize(("make", "last"), [(fractaldb, 599), (ofdb, 2)])
def test_an_index_outside_is_refused(make, last):
    for index in (-1, last + 1):
        with pytest.raises(UsageError, match=f"there are images 0 to {last}"):
            list(make().render([index]))
