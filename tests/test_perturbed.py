import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import spatial_systems
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_atom import draw_plain_atom, splitmix64

import fracgen
from fracgen.cli.app import run
from fracgen.perturbed import Perturbed
from fracgen.plain_contours import draw_plain_contours
from fracgen.plain_multifractal import colour_plain_counts, plain_counts, plain_orbit
from fracgen.plain_space import plain_cloud
from fracgen.recipe import UnmakeableError
from fracgen.registry import load_recipe, recipe_hash
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.spatial import SpatialCategories, SpatialIFS

EXAMPLE = Path(__file__).parents[1] / "examples" / "perturbed.yaml"
SYSTEMS = SpatialCategories(spatial_systems(2))
RECIPES = {
    "rcdb": Perturbed(formula="rcdb", classes=5, size=64, seed=3, base=2),
    "visualatom": Perturbed(formula="visualatom", classes=5, size=64, seed=3, base=0),
    "exfractaldb": Perturbed(formula="exfractaldb", classes=5, size=64, seed=3, base=1, systems=SYSTEMS),
    "multifractal": Perturbed(formula="multifractal", classes=5, size=64, seed=3, base=1),
}
every = pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))


@every
@pytest.mark.parametrize("perturbation", ["additive", "multiplicative"])
def test_numbers_are_moved_as_documented(recipe, perturbation):
    recipe = replace(recipe, perturbation=perturbation, delta=0.3)
    original = recipe.original
    for sample in recipe:
        eps, numbers = np.array(sample.metadata["eps"]), np.array(sample.metadata["numbers"])
        random = generator(3, sample.index, "eps", 0).random(len(eps))
        half_width = 0.15 if perturbation == "additive" else 0.3
        assert np.array_equal(eps, half_width * (2 * random - 1)) and np.abs(eps).max() <= half_width
        moved = original.numbers + eps * original.widths
        assert np.array_equal(numbers, moved if perturbation == "additive" else original.numbers * (1 + eps))
        assert (sample.label, len(original.names)) == (sample.index, len(numbers))


def plain_contour(recipe, sample):
    """The image of a class of RCDB's contour, drawn by the plain program from the numbers in its metadata."""
    base = fracgen.RCDB(classes=recipe.base + 1, instances=1, seed=recipe.seed, size=recipe.size)[recipe.base].metadata
    noise, line_offset, radius, *oval = (max(number, 0.0) for number in sample.metadata["numbers"])
    stream = splitmix64(int(base["image_key"], 16))
    return draw_plain_contours(
        lambda count: next(stream) // 2**32 * count // 2**32,
        lambda: next(stream) // 2**11 / 2**53 * 10000,
        numbers=(base["vertices"], base["lines"], noise, line_offset),
        radii=(radius, *oval),
        centre=(recipe.size / 2, recipe.size / 2),
        size=recipe.size,
    )


def test_a_contour_is_the_plain_programs():
    for sample in RECIPES["rcdb"]:
        assert np.array_equal(sample.image, plain_contour(RECIPES["rcdb"], sample))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    base=st.integers(0, 9),
    size=st.integers(8, 64),
    delta=st.floats(0, 20),
    perturbation=st.sampled_from(["additive", "multiplicative"]),
)
def test_any_contour_is_the_plain_programs_or_cannot_be_made(seed, base, size, delta, perturbation):
    """Numbers below 0 too, contours that are out of sight, and those of which nothing is left."""
    recipe = Perturbed(seed=seed, base=base, size=size, delta=delta, perturbation=perturbation, classes=2, max_tries=3)
    try:
        samples = list(recipe)
    except UnmakeableError as error:
        assert "all 3 perturbations overflow or show nothing" in str(error)
        return
    for sample in samples:
        assert np.array_equal(sample.image, plain_contour(recipe, sample))
        assert sample.image.min() < sample.image.max() and set(sample.rejected) <= {"empty"}


def test_an_atom_is_the_plain_programs():
    recipe = RECIPES["visualatom"]
    atom, key = fracgen.VisualAtom(classes=1, instances=1, seed=3).atom(0), stream_key(3, 0, "image")
    for sample in recipe:
        noise, line_offset, radius, *ellipse = sample.metadata["numbers"]
        values = {"vertices": atom.vertices, "orbits": atom.orbits, "waves": atom.waves, "image_key": key, "size": 64}
        moved = {"noise": noise, "line_offset": line_offset, "radius": radius, "ellipse": ellipse}
        assert np.array_equal(sample.image, draw_plain_atom(**values, **moved, centre=(32.0, 32.0), own_centre=False))


def test_a_fractal_of_space_keeps_its_choices_and_its_view():
    recipe = RECIPES["exfractaldb"]
    uniforms = generator(3, 1, "cloud").random(10_000)
    original = recipe.original
    for sample in recipe:
        maps = np.array(sample.metadata["numbers"]).reshape(-1, 12)
        points = plain_cloud(maps, SYSTEMS[1].p, uniforms).astype(np.float32)
        image = np.zeros((64, 64), np.uint8)
        from fracgen import spatial_kernels

        spatial_kernels.project(points, original._camera, 64, image)
        assert np.array_equal(sample.image, image) and image.any()


def test_a_coloured_fractal_keeps_its_choices():
    """Against the plain program: maps and colours of each class, choices of maps by the original's determinants."""
    recipe = RECIPES["multifractal"]
    base = fracgen.MultiFractal(classes=2, instances=1, seed=3, size=64, composition="single", jitter="none").scene(1)
    (fractal,) = base.fractals
    halves = itertools.chain.from_iterable((n & 0xFFFFFFFF, n >> 32) for n in splitmix64(fractal.key))
    uniforms = [half / 2**32 for half in itertools.islice(halves, 100_000)]
    for sample in itertools.islice(recipe, 2):
        *coefficients, hue, saturation, value = sample.metadata["numbers"]
        maps = [coefficients[start : start + 6] for start in range(0, len(coefficients), 6)]
        choices = [sum(uniform >= limit for limit in fractal.limits[:-1]) for uniform in uniforms]
        orbit = plain_orbit(maps, choices)
        counts = plain_counts(orbit, 64, fractal.mask, [0, 0, 1, 1])
        image = colour_plain_counts(counts, [hue % 256, saturation, value], fractal.flips)
        assert np.array_equal(sample.image, np.array(image, np.uint8)) and min(saturation, value) > 0


@every
def test_images(recipe):
    """Each depends on its index only; all differ; without a perturbation all are the original."""
    alone = [recipe[index].image for index in range(5)]
    for order in ([4, 0, 2], [2, 2, 1]):
        for index, sample in zip(order, recipe.render(order), strict=True):
            assert np.array_equal(sample.image, alone[index])
    assert len({image.tobytes() for image in alone}) == 5
    still = replace(recipe, delta=0.0)
    original = recipe.original.draw(recipe.original.numbers, 64)
    assert all(np.array_equal(sample.image, original) for sample in still)
    assert still.warnings({}) == ["delta 0: all 5 classes are identical"] and recipe.warnings({}) == []
    assert not np.array_equal(replace(recipe, seed=4)[0].image, alone[0])
    columns = list(recipe.preview())
    assert columns[0][0][0] == "original" and np.array_equal(columns[0][0][1], original) and len(columns) == 6


def test_pixels_are_pinned():
    pins = {name: hashlib.sha256(recipe[3].image).hexdigest()[:8] for name, recipe in RECIPES.items()}
    assert pins == {"rcdb": "85c9b812", "visualatom": "63abd77d", "exfractaldb": "797d8d22", "multifractal": "56ddf543"}


def test_an_original_that_shows_nothing_is_refused():
    with pytest.raises(DataError, match="base 2: shows nothing at size 64; try another --base"):
        replace(RECIPES["visualatom"], base=2).resolve()
    assert RECIPES["exfractaldb"].resolve() == (RECIPES["exfractaldb"], {})


def test_overflows_are_counted_and_bounded():
    wild = SpatialCategories((SpatialIFS([[0.9] + [0.0] * 11, [0.5, 0, 0, 0, 0.5] + [0.1] * 7], [0.9, 0.1]),))
    recipe = Perturbed(formula="exfractaldb", classes=20, size=32, delta=2.0, systems=wild)
    rejected = [sample.rejected.get("overflow", 0) for sample in recipe]
    assert max(rejected) > 0 and min(rejected) == 0
    with pytest.raises(DataError, match="all 1 perturbations overflow or show nothing; lower --delta"):
        list(replace(recipe, max_tries=1))


def test_images_of_nothing_are_counted_and_bounded():
    """Contours that are far beyond the borders."""
    recipe = Perturbed(base=4, classes=30, size=40, delta=1000.0)
    samples = list(recipe)
    assert all(sample.image.min() < sample.image.max() for sample in samples)
    assert sum(sample.rejected.get("empty", 0) for sample in samples) > 0
    assert any(not sample.rejected for sample in samples) and not any("overflow" in s.rejected for s in samples)
    with pytest.raises(DataError, match="or show nothing"):
        list(replace(recipe, max_tries=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formula": "noise"}, "formula"),
        ({"delta": -0.1}, "delta -0.1"),
        ({"base": -1}, "base -1"),
        ({"classes": 0}, "classes 0"),
        ({"max_tries": 0}, "max_tries 0"),
        ({"systems": SYSTEMS}, "systems: of exfractaldb alone"),
        ({"systems": SYSTEMS, "formula": "exfractaldb"}, "and 1 of them for base 0"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        Perturbed(**changes)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    words = ["--classes", "3", "--size", "48", "--formula", "exfractaldb", "--out", "out"]
    assert run(["perturb", *words]) == 0 and run(["verify", "out", "--render"]) == 0
    assert "nothing to do" in (capsys.readouterr(), run(["perturb", *words]), capsys.readouterr())[2].out
    recipe = load_recipe("out")
    assert recipe_hash(recipe) == recipe_hash(Perturbed(classes=3, size=48, formula="exfractaldb").resolve()[0])
    with pytest.raises(UsageError, match=r"call resolve\(\) first"):
        list(Perturbed(formula="exfractaldb").render([0]))


def test_the_example_is_the_defaults():
    values = yaml.safe_load(EXAMPLE.read_text())
    assert load_recipe(EXAMPLE) == Perturbed()
    assert set(values) == {"recipe", "formula", "base", "delta", "perturbation", "classes", "seed", "size", "max_tries"}
