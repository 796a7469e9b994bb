import hashlib
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_atom import splitmix64
from PIL import Image

import fracgen
from fracgen.plain_contours import draw_plain_contours, plain_images
from fracgen.rcdb import RCDB, IndexedStream
from fracgen.rcdb_stream import RandomStates
from fracgen.registry import RECIPES, load_recipe, recipe_hash, save_recipe
from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import DataError, UsageError

SMALL = {"classes": 6, "instances": 4, "seed": 7, "size": 48, "max_lines": 30, "max_radius": 20, "max_shift": 30}
PUBLISHED = {"stream": "published", "classes": 6, "instances": 3, "size": 64, "max_shift": 40, "processes": 2}
SCHEMA = {
    "formula": str,
    "vertices": int,
    "lines": int,
    "noise": float,
    "line_offset": float,
    "radius": int,
    "oval": (float, float),
    "centre": (float, float),
}


@pytest.fixture(scope="module")
def recipe() -> RCDB:
    return RCDB(**SMALL)


@pytest.fixture(scope="module")
def published() -> RCDB:
    return RCDB(**PUBLISHED).resolve()[0]


def plain(sample) -> np.ndarray:
    """The image of an indexed sample's metadata in plain Python."""
    values = sample.metadata
    stream = splitmix64(int(values["image_key"], 16))
    return draw_plain_contours(
        lambda count: next(stream) // 2**32 * count // 2**32,
        lambda: next(stream) // 2**11 / 2**53 * 10000,
        numbers=(values["vertices"], values["lines"], values["noise"], values["line_offset"]),
        radii=(values["radius"], *values["oval"]),
        centre=tuple(values["centre"]),
        size=sample.image.shape[0],
    )


def test_defaults_are_the_published_set():
    recipe = RCDB()
    assert (len(recipe), recipe.num_classes, recipe.image_shape) == (1_000_000, 1000, (512, 512))
    assert (recipe.min_vertices, recipe.max_vertices, recipe.min_lines, recipe.max_lines) == (3, 200, 1, 200)
    assert (recipe.max_noise, recipe.max_line_offset, recipe.min_radius, recipe.max_radius) == (4.0, 0.1, 0, 100)
    assert (recipe.min_oval, recipe.max_oval, recipe.max_shift, recipe.mean_vertices) == (1.0, 2.0, 400, 100.0)
    assert (recipe.processes, recipe.stream) == (10, "indexed") and RECIPES["rcdb"] is RCDB


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 33},
        {"max_noise": 0.0, "max_line_offset": 0.0},
        {"max_noise": 90.0, "max_line_offset": 90.0},
        {"max_radius": 2000, "max_oval": 50.0},
        {"min_vertices": 1, "max_vertices": 2, "min_radius": 0, "max_radius": 0, "mean_vertices": 1.0},
        {"size": 600, "max_lines": 3, "min_lines": 3},
    ],
)
def test_every_pixel_is_the_plain_programs(changes):
    recipe = RCDB(**{**SMALL, **changes})
    for sample in recipe.render(range(0, len(recipe), 3)):
        assert np.array_equal(sample.image, plain(sample)), sample.index


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(8, 80),
    lines=st.integers(1, 40),
    vertices=st.integers(1, 60),
    noise=st.floats(0, 100),
    offset=st.floats(0, 100),
    shift=st.integers(0, 200),
)
def test_any_values_are_the_plain_programs(seed, size, lines, vertices, noise, offset, shift):
    recipe = RCDB(
        classes=2,
        instances=2,
        seed=seed,
        size=size,
        max_lines=lines,
        min_vertices=vertices,
        max_vertices=vertices,
        max_noise=noise,
        max_line_offset=offset,
        max_shift=shift,
    )
    for sample in recipe.render([1, 2]):
        assert np.array_equal(sample.image, plain(sample))


def test_the_published_stream_is_the_plain_programs(published):
    expected = {
        3 * label + number: image
        for process in range(2)
        for label, number, image in plain_images(process, classes=3, images=3, size=64, max_shift=40)
    }
    assert sorted(expected) == list(range(18))
    for order in (range(18), range(17, -1, -1), [5, 0, 17, 5, 16]):
        for index, sample in zip(order, published.render(order), strict=True):
            assert np.array_equal(sample.image, expected[index]), index
            assert (sample.index, sample.label) == (index, index // 3)


@pytest.mark.parametrize(("processes", "classes", "images", "size", "shift"), [(3, 2, 2, 40, 41), (1, 1, 40, 32, 0)])
def test_the_published_stream_of_other_numbers(processes, classes, images, size, shift):
    """Other processes and sizes; centres on halves of a pixel; more images a class than the buffer holds."""
    values = {"instances": images, "size": size, "max_shift": shift, "processes": processes}
    recipe, _ = RCDB(stream="published", classes=processes * classes, **values).resolve()
    for process in range(processes):
        for label, number, image in plain_images(process, classes=classes, images=images, size=size, max_shift=shift):
            assert np.array_equal(recipe[label * images + number].image, image)


def test_states_are_those_of_pythons_random():
    """At each class, against the generator itself, read number by number."""
    recipe, _ = RCDB(stream="published", classes=3, instances=25, processes=1, size=224).resolve()
    stream = random.Random(1)
    for state in recipe.states.states:
        begun = random.Random()
        begun.setstate((3, tuple(state.tolist()), None))
        expected = random.Random()
        expected.setstate(stream.getstate())
        assert [begun.getrandbits(32) for _ in range(700)] == [expected.getrandbits(32) for _ in range(700)]
        vertices = 0
        while not 3 <= vertices <= 200:
            vertices = int(stream.expovariate(1 / 100))
        lines = stream.randint(1, 200)
        for _ in range(2):
            stream.random()
        stream.randint(0, 100)
        for _ in range(2):
            stream.random()
        for _ in range(2):
            stream.randint(-400, 400)
        for _ in range(25):
            for _ in range(lines):
                stream.randint(0, 112)
                for _ in range(2 * vertices):
                    stream.random()
            for _ in range(2):
                stream.random()
            stream.randint(0, 100)
            for _ in range(2):
                stream.randint(-400, 400)


def test_an_interrupt_ends_the_walk_of_every_process(monkeypatch):
    monkeypatch.setattr("fracgen.rcdb_stream._WORDS_AT_A_TIME", 1)
    calls = []

    def interrupt(label):
        calls.append(label)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RCDB(**{**PUBLISHED, "instances": 3000, "max_lines": 2}).resolve(interrupt)
    assert len(calls) < 3000, "of 18,000"


def test_the_published_stream_at_the_published_ranges():
    """One process of 512 px images, far enough into its stream for every refill of the buffer."""
    recipe, _ = RCDB(stream="published", classes=2, instances=4, processes=1).resolve()
    expected = [image for *_, image in plain_images(0, classes=2, images=4)]
    assert all(
        np.array_equal(sample.image, image) for sample, image in zip(recipe.render(range(8)), expected, strict=True)
    )


@pytest.mark.parametrize("case", ["rcdb_1", "rcdb_2", "rcdb_4_native"])
def test_golden(case, golden_family):
    values = json.loads((golden_family / f"{case}.json").read_text())
    recipe, _ = RCDB(
        stream="published",
        classes=values["classes"],
        instances=values["instances"],
        processes=values["numof_thread"],
        size=values["size"],
        max_shift=values["start_pos"],
    ).resolve()
    sample = recipe[values["category"] * values["instances"] + values["image"]]
    assert np.array_equal(
        np.asarray(Image.open(golden_family / f"{case}.png").convert("RGB")), np.dstack([sample.image] * 3)
    )
    names = {"vertices": "V", "lines": "L", "noise": "q", "line_offset": "w", "radius": "radius"}
    assert {name: sample.metadata[name] for name in names} == {name: values[key] for name, key in names.items()}


def test_pixels_are_pinned(recipe, published):
    """These pixels are the format: another stream makes other data sets out of the same seeds."""
    assert hashlib.sha256(recipe[13].image).hexdigest()[:16] == "911072f167d616c8"
    assert hashlib.sha256(published[13].image).hexdigest()[:16] == "f47a8ec3e9aff231"


def test_metadata_and_label(recipe, published):
    for some, schema in ((recipe, {**SCHEMA, "image_key": str}), (published, SCHEMA)):
        for sample in some.render(np.arange(len(some))):
            assert sample.label == sample.index // some.instances and type(sample.index) is type(sample.label) is int
            assert list(sample.metadata) == list(schema)
            for name, kind in schema.items():
                value = sample.metadata[name]
                assert (tuple(map(type, value)) if isinstance(kind, tuple) else type(value)) == kind, name
            assert sample.image.dtype == np.uint8 and sample.image.shape == (some.size, some.size)


def test_instances_share_their_class_and_nothing_else(recipe, published):
    for some in (recipe, published):
        samples = list(some)
        of_class = [
            {tuple(s.metadata[name] for name in list(SCHEMA)[1:5]) for s in samples if s.label == label}
            for label in range(6)
        ]
        assert all(len(values) == 1 for values in of_class) and len(set.union(*of_class)) == 6
        assert len({tuple(sample.metadata["oval"]) for sample in samples}) == len(samples)


def test_an_image_depends_on_its_index_only(recipe):
    alone = {index: recipe[index] for index in range(len(recipe))}
    for order in (range(24), range(23, -1, -1), [5, 5, 0, 23, 5]):
        for index, sample in zip(order, RCDB(**SMALL).render(order), strict=True):
            assert sample.index == index and np.array_equal(sample.image, alone[index].image)
    assert not np.array_equal(replace(recipe, seed=8)[14].image, alone[14].image)


def test_distributions():
    recipe = RCDB(classes=4000, instances=1, max_lines=5, max_radius=4, max_shift=3)
    contours = [IndexedStream(recipe, label).contour for label in range(4000)]
    vertices = [contour.vertices for contour in contours]
    stream, expected = random.Random(0), []
    while len(expected) < 4000:
        if 3 <= (number := int(stream.expovariate(0.01))) <= 200:
            expected.append(number)
    assert (min(vertices), max(vertices)) == (3, 200) and abs(np.mean(vertices) - np.mean(expected)) < 4
    assert (
        np.abs(np.quantile(vertices, np.linspace(0.1, 0.9, 9)) - np.quantile(expected, np.linspace(0.1, 0.9, 9))).max()
        < 8
    )
    placements = [IndexedStream(recipe, label).seek(0) for label in range(4000)]
    for values, allowed in (
        ([contour.lines for contour in contours], range(1, 6)),
        ([placement.radius for placement in placements], range(5)),
        ([2 * placement.centre[0] - 512 for placement in placements], range(-3, 4)),
        ([2 * placement.centre[1] - 512 for placement in placements], range(-3, 4)),
    ):
        counts = Counter(values)
        assert sorted(counts) == list(allowed)
        mean = 4000 / len(counts)
        assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())


@pytest.mark.parametrize(("mean", "least"), [(1e-300, 3), (0.01, 3), (3.0, 108), (3.0, 150), (0.5, 10_000)])
def test_vertices_far_out_of_the_distribution(mean, least):
    """There the exponential goes on as it begins: of one in a million numbers above 150, the mean is 150 + 3."""
    recipe = RCDB(mean_vertices=mean, min_vertices=least, max_vertices=10_000, classes=300, instances=1, size=8)
    vertices = [IndexedStream(recipe, label).contour.vertices for label in range(300)]
    assert min(vertices) == least and np.mean(vertices) == pytest.approx(least + mean - 0.5, abs=0.7)


def test_grays_follow_the_size_and_end_at_255():
    levels = set()
    for sample in RCDB(**{**SMALL, "size": 32, "min_lines": 30}):
        levels |= set(np.unique(sample.image).tolist())
    assert max(levels - {255}) <= 16 and {0, 16, 255} <= levels


@pytest.mark.parametrize("stream", ["indexed", "published"])
def test_a_folder_is_written_whole_and_rendered_again(tmp_path, stream):
    recipe, provenance = RCDB(**{**PUBLISHED, "stream": stream}).resolve()
    write_shards(recipe, tmp_path / "out", provenance=provenance, layout=plan(recipe, num_shards=3), workers=2)
    shards = fracgen.open_shards(tmp_path / "out")
    assert [sample.label for sample in sorted(shards, key=lambda sample: sample.index)] == [n // 3 for n in range(18)]
    again = load_recipe(tmp_path / "out")
    assert recipe_hash(again) == recipe_hash(recipe)
    assert all(np.array_equal(again[sample.index].image, sample.image) for sample in shards)
    assert (tmp_path / "out" / "random-states.bin").exists() is (stream == "published")


def test_yaml_and_states(tmp_path, published):
    save_recipe(published, tmp_path / "recipe.yaml")
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == published and recipe_hash(again) == recipe_hash(published)
    states = published.states
    assert RandomStates.from_bytes(states.to_bytes()) == states and len(states) == 6
    for damaged in (b"", states.to_bytes()[:-1], states.to_bytes()[:-4] + b"\xff\xff\xff\xff"):
        with pytest.raises(UsageError, match=r"random-states.bin: damaged"):
            RandomStates.from_bytes(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "classes 0"),
        ({"instances": 0}, "instances 0"),
        ({"classes": 1_000_000, "instances": 1001}, "instances 1001"),
        ({"max_vertices": 2}, "max_vertices 2: must be at least min_vertices, 3"),
        ({"min_lines": 0}, "min_lines 0"),
        ({"mean_vertices": 0.0}, "mean_vertices 0"),
        ({"max_noise": float("nan")}, "max_noise nan"),
        ({"max_oval": 0.5}, "max_oval 0.5"),
        ({"max_shift": 20_000}, "max_shift 20000"),
        ({"stream": "other"}, "stream"),
        ({"stream": "published", "size": 33}, "size 33: the published program fails"),
        ({"stream": "published", "classes": 1001}, "use 1000 classes"),
        ({"stream": "published", "classes": 3, "processes": 4}, "use at most 3 processes"),
        ({"stream": "published", "classes": 100_010}, "classes 100010: must be 1 to 100000 in the published stream"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        RCDB(**changes)


def test_what_cannot_be_drawn_or_is_not_resolved(published):
    with pytest.raises(UsageError, match=r"call resolve\(\) first"):
        list(RCDB(**PUBLISHED).render([0]))
    with pytest.raises(DataError, match="no number of vertices of 10000 was in 200 to 200"):
        RCDB(**{**PUBLISHED, "min_vertices": 200, "mean_vertices": 1.0}).resolve()
    with pytest.raises(UsageError, match="of 6 classes, not of 4"):
        replace(published, classes=4)
    with pytest.raises(UsageError, match="only the published stream"):
        replace(published, stream="indexed")
    with pytest.raises(UsageError, match="0 to 17"):
        list(published.render([18]))
    assert replace(published, seed=3).warnings({}) == ["seed 3: changes nothing in the published stream"]
    assert RCDB(processes=40).warnings({}) == ["processes 40: changes nothing in the indexed stream"]
