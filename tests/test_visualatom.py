import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from oracle_atom import draw_plain_atom, pnoise1_plain
from PIL import Image, ImageDraw

from fracgen import atom_kernels as atoms
from fracgen.registry import RECIPES, Recipe
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import UsageError
from fracgen.visualatom import VisualAtom, draw

SMALL = {
    "classes": 12,
    "instances": 5,
    "seed": 7,
    "size": 48,
    "min_vertices": 5,
    "max_vertices": 40,
    "max_orbits": 9,
    "min_radius": 1,
    "max_radius": 9,
}


@pytest.fixture(scope="module")
def recipe() -> VisualAtom:
    return VisualAtom(**SMALL)


def oracle(sample, gradients="library") -> np.ndarray:
    metadata = {**sample.metadata, "image_key": int(sample.metadata["image_key"], 16), "size": sample.image.shape[0]}
    assert metadata.pop("formula") == "visualatom"
    return draw_plain_atom(**metadata, gradients=gradients)


def test_defaults_are_the_published_set():
    recipe = VisualAtom()
    assert (len(recipe), recipe.num_classes, recipe.image_shape) == (1_000_000, 1000, (512, 512))
    assert (recipe.min_vertices, recipe.max_vertices, recipe.min_orbits, recipe.max_orbits) == (200, 1000, 1, 200)
    assert (recipe.max_noise, recipe.max_line_offset, recipe.min_radius, recipe.max_radius) == (4.0, 0.1, 10, 60)
    assert (recipe.max_waves, recipe.min_ellipse, recipe.max_ellipse) == (20, 1.0, 2.0)


def test_it_is_a_recipe_that_is_resolved(recipe):
    assert isinstance(recipe, Recipe) and RECIPES["visualatom"] is VisualAtom
    assert recipe.resolve() == (recipe, {}) and recipe.warnings({}) == []
    assert recipe.two_level is False and recipe.group == 1
    assert recipe.class_names == tuple(f"{label:02d}" for label in range(12))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 33, "max_orbits": 30},
        {"max_noise": 0.0, "max_line_offset": 0.0},
        {"max_noise": 90.0, "max_line_offset": 90.0},
        {"max_waves": 0, "max_ellipse": 1.0},
        {"gradients": "signed"},
        {"max_radius": 2000, "max_ellipse": 50.0},
        {"min_vertices": 3, "max_vertices": 3, "min_radius": 0, "max_radius": 0},
    ],
)
def test_every_pixel_is_the_plain_renderers(changes):
    recipe = VisualAtom(**{**SMALL, **changes})
    for sample in recipe.render(range(0, len(recipe), 3)):
        assert np.array_equal(sample.image, oracle(sample, recipe.gradients)), sample.index


def test_every_pixel_at_the_published_ranges():
    recipe = VisualAtom(seed=1)
    label = next(
        label for label in range(1000) if 20_000 < recipe.atom(label).vertices * recipe.atom(label).orbits < 25_000
    )
    (sample,) = recipe.render([1000 * label + 17])
    assert np.count_nonzero(sample.image) > 5000
    assert np.array_equal(sample.image, oracle(sample))


def test_pixels_are_pinned(recipe):
    """These pixels are the format: another stream makes other data sets out of the same seeds."""
    assert hashlib.sha256(recipe[42].image).hexdigest()[:16] == "47ecb90e85cd5ca9"
    assert hashlib.sha256(replace(recipe, gradients="signed")[42].image).hexdigest()[:16] == "07c944477141c12a"


def test_lines_are_pillows():
    """Given truncated coordinates, as Pillow truncates its own."""
    random = np.random.RandomState(0)
    size = 40
    for spread in (3, 20, 60, 1000):
        ends = random.uniform(-spread, spread, (1500, 4)) + random.choice([0, size // 2, size], (1500, 4))
        for number, line in enumerate(ends.tolist()):
            gray = number % 255 + 1
            expected = Image.new("L", (size, size))
            ImageDraw.Draw(expected).line(line, fill=gray, width=1)
            canvas = np.zeros(size * size, np.uint8)
            atoms.draw_line(*(int(coordinate) for coordinate in line), gray, size, canvas)
            assert np.array_equal(canvas.reshape(size, size), expected), line


def test_the_longest_lines_are_pillows():
    """From a corner and near it, where rounding errors would be the largest."""
    size, random = 8192, np.random.RandomState(0)
    ends = [(size - 1, aside) for aside in (0, 1, 4095, 4096, size - 2, size - 1, *random.randint(0, size, 20))]
    canvas, expected = np.zeros(size * size, np.uint8), Image.new("L", (size, size))
    for u, v in ends:
        atoms.draw_line(0, 0, u, v, 9, size, canvas)
        ImageDraw.Draw(expected).line((0, 0, u, v), fill=9, width=1)
        atoms.draw_line(v, u, 1, 2, 9, size, canvas)
        ImageDraw.Draw(expected).line((v, u, 1, 2), fill=9, width=1)
    assert np.array_equal(canvas.reshape(size, size), expected)


def polyline(vertices, size, centre=(0.0, 0.0)):
    """The kernel's polyline of vertices (V, 2), and Pillow's lines."""
    canvas, expected = np.zeros(size * size, np.uint8), Image.new("L", (size, size))
    scratch, xy = np.full((8, len(vertices) + 1), 1 << 30, np.int32), np.array(vertices, float).T.copy()
    atoms.draw_polyline(xy, centre, np.uint8(9), size, atoms.short_lines(size), scratch, canvas)
    moved = [(x + centre[0], y + centre[1]) for x, y in xy.T.tolist()]
    for first, last in zip([moved[-1], *moved], moved, strict=False):
        ImageDraw.Draw(expected).line((*first, *last), fill=9, width=1)
    return canvas.reshape(size, size), np.asarray(expected)


def test_all_short_lines_are_pillows():
    """There and back. Of a table and just too long for it, within the canvas and beyond its edge."""
    reach = atoms.LONGER + 2
    for size, start in ((12, 6), (2 * reach + 1, reach)):
        for u, v in itertools.product(range(-reach, reach + 1), repeat=2):
            drawn, expected = polyline([(start, start), (start + u, start + v)], size)
            assert np.array_equal(drawn, expected), (size, u, v)


def test_polylines_are_pillows_lines():
    """Of all lengths and kinds, and where vertices share pixels, so that lines have no steps."""
    random = np.random.RandomState(0)
    for number in range(400):
        steps = random.normal(0, random.choice([0.2, 2, 5, 20]), (random.randint(1, 60), 2))
        centre = tuple(random.uniform(0, 40, 2).tolist())
        drawn, expected = polyline(np.cumsum(steps, axis=0), 40, centre)
        assert np.array_equal(drawn, expected), number


def test_the_permutation_is_perlins():
    assert sorted(atoms.PERMUTATION) == list(range(256))
    assert atoms.PERMUTATION[:6] == (151, 160, 137, 91, 90, 15) and atoms.PERMUTATION[-3:] == (61, 156, 180)


def noise_at(places, gradients=atoms.SIGNED_GRADIENTS):
    """places: exact in float32, so that dividing and multiplying changes none of them."""
    noises = np.empty(len(places), np.float32)
    atoms.perlin(np.asarray(places, np.float64) / 10_000, gradients, np.empty(len(places), np.int32), noises)
    return noises


def test_noise():
    places = np.random.RandomState(0).uniform(0, 10_000, 2003).astype(np.float32)
    noise = noise_at(places)
    assert noise.tolist() == [float(pnoise1_plain(place)) for place in places]
    assert noise_at(places, atoms.LIBRARY_GRADIENTS).tolist() == [
        float(pnoise1_plain(place, "library")) for place in places
    ]
    assert np.abs(noise).max() <= 1.6
    assert not noise_at(np.arange(10_001)).any()
    cells, offsets = np.arange(0, 1000, 5), np.random.RandomState(1).randint(0, 2**10, 200) / 2**10  # exact in float32
    assert np.array_equal(noise_at(cells + offsets), noise_at(cells + 1024 + offsets))
    # between points 0 and 1, hashes 151 and 160: gradients 8 and 1, fade(1/2) = 1/2
    # between points 2 and 3, hashes 137 and 91: gradients -2 and -4
    expected = np.array([(8 * 0.5 + 1 * -0.5) / 2, (-2 * 0.5 + -4 * -0.5) / 2], np.float32) * np.float32(0.4)
    assert np.array_equal(noise_at([0.5, 2.5]), expected)


def test_orbits_grow_by_the_line_offset_and_the_noise_amplitude():
    """Without noise and waves, all orbits are the ellipse of the start; the mean of the noise is -q, and outward."""
    atom = replace(VisualAtom(max_waves=0).atom(0), noise=0.0, radius=10, orbits=20, ellipse=(2.0, 2.0))

    def radii(**changes):
        y, x = np.argwhere(draw(replace(atom, **changes), (256.0, 256.0), 3, 512)).T
        return np.hypot(y - 255.5, x - 255.5)

    assert np.abs(radii(line_offset=0.0) - 20).max() < 1.5
    assert np.abs(radii(line_offset=0.0, ellipse=(2.0, 1.0)) - 15).max() < 6.5
    grown = radii(line_offset=3.0)
    assert grown.min() == pytest.approx(23, abs=1.5) and grown.max() == pytest.approx(80, abs=1.5)
    noisy = radii(line_offset=0.0, noise=4.0)
    assert noisy.min() > 12 and 90 < np.median(noisy[noisy > 80]) < 120


def test_whole_numbers_are_uniform_and_both_ends_are_reached():
    recipe = VisualAtom(
        classes=4000, instances=1, min_vertices=3, max_vertices=9, max_orbits=5, min_radius=2, max_radius=4, max_waves=4
    )
    drawn = [recipe.atom(label) for label in range(len(recipe))]
    for name, low, high in (("vertices", 3, 9), ("orbits", 1, 5), ("radius", 2, 4)):
        counts = Counter(getattr(atom, name) for atom in drawn)
        assert sorted(counts) == list(range(low, high + 1))
        assert_uniform(counts)
    first = Counter(atom.waves[0] for atom in drawn)
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert_uniform(first)
    for n1 in range(5):
        second = Counter(atom.waves[1] for atom in drawn if atom.waves[0] == n1)
        assert set(second) == {n2 for n2 in range(5) if n2 != n1 or n1 == 0}, "n1 = 0 is accepted as it is"
        assert_uniform(second)


def assert_uniform(counts):
    """Each count within 5 standard deviations."""
    expected = sum(counts.values()) / len(counts)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_numbers_of_a_class_fill_their_ranges():
    recipe = VisualAtom(classes=2000, instances=1, min_vertices=3, max_vertices=3, max_noise=2.0, min_ellipse=0.5)
    drawn = [recipe.atom(label) for label in range(len(recipe))]
    for values, low, high in (
        ([atom.noise for atom in drawn], 0, 2),
        ([atom.line_offset for atom in drawn], 0, 0.1),
        ([atom.ellipse[0] for atom in drawn], 0.5, 2),
        ([atom.ellipse[1] for atom in drawn], 0.5, 2),
    ):
        assert low <= min(values) < low + 0.01 * (high - low) and high - 0.01 * (high - low) < max(values) < high
        assert np.mean(values) == pytest.approx((low + high) / 2, rel=0.05)
    assert len({atom.ellipse for atom in drawn}) == len({atom.noise for atom in drawn}) == len(drawn)


def test_centres_are_uniform_and_both_ends_are_reached():
    recipe = VisualAtom(**{**SMALL, "size": 8})
    centres = [recipe.centre(stream_key(0, index, "image")) for index in range(3000)]
    for axis in range(2):
        counts = Counter(centre[axis] for centre in centres)
        assert sorted(counts) == [half / 2 for half in range(17)]
        assert_uniform(counts)


def test_grays_take_all_256_values():
    recipe = VisualAtom(**{**SMALL, "size": 64, "min_orbits": 60, "max_orbits": 60})
    seen = set()
    for sample in recipe.render(range(60)):
        seen |= set(np.unique(sample.image).tolist())
    assert seen == set(range(256))


def test_metadata_and_label(recipe):
    schema = {
        "formula": str,
        "vertices": int,
        "orbits": int,
        "noise": float,
        "line_offset": float,
        "radius": int,
        "waves": (int, int),
        "ellipse": (float, float),
        "centre": (float, float),
        "image_key": str,
    }
    for recipe_here in (recipe, replace(recipe, max_noise=0.0, max_line_offset=0.0, min_ellipse=1.0, max_ellipse=1.0)):
        for sample in recipe_here.render(np.arange(len(recipe_here))):
            assert sample.label == sample.index // 5 and type(sample.index) is type(sample.label) is int
            assert list(sample.metadata) == list(schema) and not sample.rejected
            for name, kind in schema.items():
                value = sample.metadata[name]
                assert (tuple(map(type, value)) if isinstance(kind, tuple) else type(value)) == kind, name
            assert sample.metadata["image_key"] == f"{stream_key(7, sample.index, 'image'):016x}"
            assert sample.image.shape == (48, 48) and sample.image.dtype == np.uint8


def test_instances_share_their_class_and_nothing_else(recipe):
    of_class = ("vertices", "orbits", "noise", "line_offset", "radius", "waves", "ellipse")
    samples = list(recipe.render(range(len(recipe))))
    shared = {sample.label: [sample.metadata[name] for name in of_class] for sample in samples}
    assert all([sample.metadata[name] for name in of_class] == shared[sample.label] for sample in samples)
    assert len({str(values) for values in shared.values()}) == 12
    assert len({sample.metadata["image_key"] for sample in samples}) == len(samples)
    numbers = generator(7, 3, "atom").random(2)
    assert shared[3][:2] == [5 + int(numbers[0] * 36), 1 + int(numbers[1] * 9)]


def test_an_image_depends_on_its_index_only(recipe):
    alone = {index: next(recipe.render([index])) for index in range(len(recipe))}
    for order in (range(60), range(59, -1, -1), [5, 5, 0, 59, 5]):
        for index, sample in zip(order, VisualAtom(**SMALL).render(order), strict=True):
            assert sample.index == index and sample.metadata == alone[index].metadata
            assert np.array_equal(sample.image, alone[index].image)
    fewer = next(replace(recipe, classes=3).render([14]))
    assert np.array_equal(fewer.image, alone[14].image), "the number of classes has no say in it"
    assert not np.array_equal(next(replace(recipe, seed=8).render([14])).image, alone[14].image)


def test_preview_has_instances_of_some_classes(recipe):
    columns = list(recipe.preview())
    assert [len(column) for column in columns] == [3] * 6
    assert columns[0][0][0] == "class 0 #0" and columns[-1][2][0] == "class 11 #2"
    assert np.array_equal(columns[-1][2][1], next(recipe.render([57])).image)
    tiny = list(replace(recipe, classes=2, instances=1).preview())
    assert [[caption for caption, _ in column] for column in tiny] == [["class 0 #0"], ["class 1 #0"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "classes 0"),
        ({"instances": 0}, "instances 0"),
        ({"classes": 1_000_000, "instances": 1001}, "instances 1001"),
        ({"seed": -1}, "seed -1"),
        ({"size": 7}, "size 7"),
        ({"min_vertices": 2}, "min_vertices 2"),
        ({"max_vertices": 199}, "max_vertices 199: must be at least min_vertices, 200"),
        ({"min_orbits": 0}, "min_orbits 0"),
        ({"max_orbits": 10_001}, "max_orbits 10001"),
        ({"min_radius": -1}, "min_radius -1"),
        ({"max_radius": 9}, "max_radius 9"),
        ({"max_noise": -0.1}, "max_noise -0.1"),
        ({"max_noise": float("nan")}, "max_noise nan"),
        ({"max_line_offset": float("inf")}, "max_line_offset inf"),
        ({"max_waves": -1}, "max_waves -1"),
        ({"min_ellipse": -1.0}, "min_ellipse -1"),
        ({"max_ellipse": 0.5}, "max_ellipse 0.5"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        VisualAtom(**changes)


def test_an_index_outside_is_refused(recipe):
    for index in (-1, 60):
        with pytest.raises(UsageError, match="0 to 59"):
            list(recipe.render([index]))
